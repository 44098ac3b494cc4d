"""What a training says on the terminal: bars, a line a probe, and a table at its end."""

import sys

from tqdm.auto import tqdm

from zipr1.common.documents import read_lines
from zipr1.common.progress import progress
from zipr1.common.tables import markdown_table
from zipr1.training.metrics import final_row
from zipr1.training.run_state import RunState


def progress_bar(run: RunState, line: int) -> tqdm:
    """The bar of steps at `line` of the terminal."""
    return progress(
        desc=run.config.preset,
        unit="step",
        disable=run.quiet,
        initial=run.step,
        total=run.config.max_steps,
        position=line,
    )


def show(bar: tqdm, record: dict[str, float]) -> None:
    """One step more, with its reward and token ratio."""
    if "reward" in record:
        shown = {"reward": record["reward"], "ratio": record["token_ratio"]}
        bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items()}, refresh=False)
    bar.update()


def say(run: RunState, text: str) -> None:
    """A line on stderr, above the bars."""
    if not run.quiet:
        tqdm.write(f"zipr1: {text}", file=sys.stderr)


def say_probe(run: RunState, measured: dict[str, float]) -> None:
    """What was measured on the probe set."""
    name = "accuracy" if "probe/accuracy" in measured else "logprob"
    pair = (measured[f"probe/{name}"], measured[f"probe/full_{name}"])
    sparse, dense = (number(value, name) for value in pair)
    ratio = f"{measured['probe/token_ratio']:.1%} of the tokens"
    say(run, f"step {run.step}: {ratio}, {words(name)} {sparse}, with dense attention {dense}")


def say_left_out(run: RunState, reasons: list[str]) -> None:
    """The first row that could not be used, when it is met."""
    if reasons and not run.told_left_out:
        run.told_left_out = True
        say(run, f"step {run.step}: left out, as all such rows: {reasons[0]}")


def say_result(run: RunState) -> None:
    """Rows that were left out, and the table of before and after."""
    if run.quiet:
        return
    files = sorted(run.folder.glob("failed-rows-*.jsonl"))
    if count := sum(len(read_lines(path)[0]) for path in files):
        say(run, f"{count} rows were left out; {', '.join(map(str, files))} says why")
    row = final_row(run.folder)
    name = "accuracy" if "accuracy" in row else "logprob"
    head = ["", "token ratio", words(name), f"{words(name)}, dense"]
    lines = [
        [
            when,
            number(row[f"{before}token_ratio"], "ratio"),
            number(row[f"{before}{name}"], name),
            number(row[f"{before}full_{name}"], name),
        ]
        for when, before in (("before", "baseline_"), (f"after step {row['step']}", ""))
    ]
    tqdm.write(f"\n{markdown_table(head, lines)}", file=sys.stderr)


def words(name: str) -> str:
    return "accuracy" if name == "accuracy" else "log-probability per token"


def number(value: float | None, name: str) -> str:
    if value is None:
        return "not finite"
    return f"{value:.3f}" if name == "logprob" else f"{value:.1%}"
