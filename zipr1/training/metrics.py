"""The numbers of a training run: JSON lines, trackers, run.json (docs/reference/metrics.md)."""

import json
import math
from dataclasses import asdict
from itertools import product
from pathlib import Path

from accelerate import Accelerator

from zipr1.common.documents import read_json
from zipr1.common.errors import InputError, RunError
from zipr1.common.files import append, cut, replace
from zipr1.common.provenance import provenance
from zipr1.common.tables import markdown_table
from zipr1.training.config import TrainConfig
from zipr1.training.experience import Experience
from zipr1.training.settings import changed_settings

SHOWN = 8  # answers in a table of samples


class Log:
    """log(step, record); only the main process writes, but each its failed rows. Lines after
    `start` are dropped: those of a run that was killed between two checkpoints."""

    def __init__(self, folder: Path, accelerator: Accelerator, config: TrainConfig, start: int):
        self.path, self.accelerator = folder / "metrics.jsonl", accelerator
        self.failed_rows = folder / f"failed-rows-{accelerator.process_index}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard takes no lists and no None.
        plain = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in asdict(config).items()
        }
        accelerator.init_trackers("zipr1", config=plain)
        if accelerator.is_main_process:
            for path in folder.glob("failed-rows-*.jsonl"):  # of more processes too
                cut(path, start)
            record = {
                "config": asdict(config),
                "resumed": resumptions(folder / "run.json", config, start),
            } | provenance()
            replace(folder / "run.json", json.dumps(record, indent=1))
            for path in (self.path, folder / "samples.jsonl"):
                cut(path, start)
        accelerator.wait_for_everyone()

    def __call__(self, step: int, record: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            append(self.path, [finite({"step": step} | record)])
        self.accelerator.log(record, step=step)

    def failed(self, step: int, reasons: list[str]) -> None:
        """Appends the rows of this process that could not be used, and why, to its own file."""
        if reasons:
            append(self.failed_rows, [{"step": step, "reason": reason} for reason in reasons])

    def samples(self, step: int, tokenizer, parts: list[Experience]) -> None:
        """A table of some answers with thresholds, token ratios, reward parts and what users'
        functions logged of them, to samples.jsonl and the tracker: the first rollouts of as many
        questions as there are, then the second ones."""
        places = []
        for part in parts:
            columns = range(part.rewards.accuracy.shape[1])[part.columns]
            pairs = product(range(len(part.examples)), columns)
            places += [
                (column, question, row, part) for row, (question, column) in enumerate(pairs)
            ]
        places = sorted(places, key=lambda place: place[0])[:SHOWN]
        rows = [
            finite(sample_row(step, tokenizer, part, question, column, row))
            for column, question, row, part in places
        ]
        names = dict.fromkeys(name for row in rows for name in row)  # a table: the same columns
        rows = [names | row for row in rows]
        append(self.path.parent / "samples.jsonl", rows)
        cells = [
            [str(value).replace("|", "\\|").replace("\n", " ") for value in row.values()]
            for row in rows
        ]
        self.accelerator.log({"samples": markdown_table(list(rows[0]), cells)}, step=step)


def sample_row(
    step: int, tokenizer, part: Experience, question: int, column: int, row: int
) -> dict:
    """One answer for a table: rollout number `column` of a question, in row `row` of the part."""
    example, rollout, rewards = part.examples[question], part.rollout, part.rewards
    tokens = rollout.tokens[row][rollout.mask[row]]
    own = {
        "step": step,
        "id": example.id,
        "prompt": example.question,
        "expected": example.answer,
        "completion": tokenizer.decode(tokens, skip_special_tokens=True),
        "p": rollout.p[row],
        "token_ratio": rollout.token_ratio[row].item(),
        "rewards/accuracy": rewards.accuracy[question, column].item(),
        "rewards/efficiency": rewards.efficiency[question, column].item(),
    }
    group = rewards.accuracy.shape[1]
    logged = rewards.log.of(question * group + column) if rewards.log else {}
    return own | logged | own


def finite(row: dict) -> dict:
    """The row with None for numbers that are not finite, which JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def resumptions(path: Path, config: TrainConfig, start: int) -> list[dict]:
    """At which steps the run was resumed, the commit, versions and device before, and which
    settings changed from what to what."""
    if not start or not path.exists():
        return []
    before = read_json(path)
    kinds = isinstance(before, dict) and (before.get("config"), before.get("resumed", []))
    if not kinds or not isinstance(kinds[0], dict) or not isinstance(kinds[1], list):
        raise InputError(f"{path}: not the record of a run; move it away to resume without it")
    pairs = changed_settings(before["config"], config)
    changed = {name: list(pair) for name, pair in pairs.items() if name != "resume"}
    origin = {name: before.get(name) for name in ("commit", "versions", "device")}
    return [*before.get("resumed", []), {"step": start, "changed": changed, "before": origin}]


def final_row(folder: Path) -> dict[str, float | None]:
    """Summary of a run on its probe set: before and after, and the seconds that its steps and
    probes took. None for numbers that were not finite. Raises RunError for rows that are not those
    of a run."""
    path = folder / "metrics.jsonl"
    try:
        return summary_of([json.loads(line) for line in path.read_text().splitlines()])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path}: a row is not as it was written ({type(error).__name__}: {error})"
        ) from error


def summary_of(rows: list[dict]) -> dict[str, float | None]:
    """See `final_row`."""
    probes = [row for row in rows if "probe/token_ratio" in row]
    accuracy, full = (
        ("accuracy", "full_accuracy")
        if "probe/accuracy" in rows[0]
        else ("logprob", "full_logprob")
    )
    known = [row[f"probe/{accuracy}"] for row in probes if row[f"probe/{accuracy}"] is not None]
    return {
        "step": probes[-1]["step"],
        "token_ratio": probes[-1]["probe/token_ratio"],
        accuracy: probes[-1][f"probe/{accuracy}"],
        full: probes[-1][f"probe/{full}"],
        "baseline_token_ratio": probes[0]["probe/token_ratio"],
        f"baseline_{accuracy}": probes[0][f"probe/{accuracy}"],
        f"baseline_{full}": probes[0][f"probe/{full}"],
        f"worst_{accuracy}": min(known, default=None),
        "seconds": sum(
            row.get(name, 0.0) for row in rows for name in ("step_time", "seconds/probe")
        ),
    }
