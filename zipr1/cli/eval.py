"""`zipr1 eval`: the one place that knows all suites."""

from zipr1.evaluation.config import EvalConfig


def run_eval(config: EvalConfig) -> tuple[list[dict], str]:
    """Runs the evaluation that was asked for; returns the rows of its table as JSON, and the table
    as text."""
    from zipr1.common.progress import quiet_transformers

    if config.suite == "paper":
        from zipr1.evaluation.paper.run import run_paper as run
    elif config.suite == "tiny13":
        from zipr1.lab.tiny13 import run_tiny13 as run
    else:
        from zipr1.evaluation.standard import run_standard as run
    quiet_transformers()
    rows, table = run(config)
    return [row.to_json() for row in rows], table
