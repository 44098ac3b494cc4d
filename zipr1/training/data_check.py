"""Everything that is wrong with a data set: each row is read once, as training would read it."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from torch.utils.data import DataLoader, Dataset, Subset

from zipr1.common.errors import RunError
from zipr1.common.progress import progress
from zipr1.data.media import MediaError, MissingMedia
from zipr1.data.processor import limit_pixels
from zipr1.data.rows import Rows
from zipr1.evaluation.usable_rows import TooLong, check_answer, checked, open_part
from zipr1.models.loading import load_config, load_processor
from zipr1.rewards.functions import load_function
from zipr1.training.config import TrainConfig
from zipr1.training.data_check_config import DataCheckConfig
from zipr1.training.data_write import check_target, shown_prompt, write_rows

PROBLEMS = ("missing media", "broken media", "malformed rows", "over-long prompts")
SHOWN = 5  # of each problem, in the report for people
KILLED = (
    "row number {} (from 0): ends the process that reads it, even alone: its file crashes the "
    "decoder or needs more memory than there is"
)


class DataError(RunError):
    """Rows that cannot be used; the message counts them."""


@dataclass(frozen=True)
class Finding:
    """What one row is ("" where it is unknown) and what is wrong with it."""

    tokens: int = 0  # of the prompt
    data_type: str = ""
    problem_type: str = ""
    data_source: str = ""
    problem: str = ""  # one of PROBLEMS
    message: str = ""  # names row, file or column, and reason


@dataclass(frozen=True)
class Report:
    """How many rows there are, of which types, and what is wrong with which."""

    rows: int
    usable: int
    data_type: dict[str, int]
    problem_type: dict[str, int]
    data_source: dict[str, int]
    max_prompt_length: int  # the limit
    longest_prompt: int
    problems: dict[str, list[str]]  # what is wrong -> one message a row
    prompt: str = ""  # of the first usable row, as the model sees it
    answer: str = ""  # that row's
    written: str | None = None  # the file that has the usable rows
    media_root: str = ""  # the folder that paths in that file start from

    def describe(self) -> str:
        lines = [f"{self.rows} rows, {self.usable} of them usable"]
        for name in ("data_type", "problem_type", "data_source"):
            counts = getattr(self, name)
            lines.append(
                f"{name:<20}"
                + ", ".join(f"{key or '(none)'} {counts[key]}" for key in sorted(counts))
            )
        lines.append(
            f"{'longest prompt':<20}{self.longest_prompt} tokens of at most "
            f"{self.max_prompt_length}"
        )
        if self.prompt:
            lines += ["the first usable row:", indented(self.prompt), f"  answer: {self.answer}"]
        for problem, messages in self.problems.items():
            lines.append(f"{problem:<20}{len(messages)}")
            lines += [f"  {message}" for message in messages[:SHOWN]]
            lines += (
                [f"  and {len(messages) - SHOWN} more (--json has them all)"]
                if len(messages) > SHOWN
                else []
            )
        if self.written:
            lines.append(f"{'written':<20}{self.usable} usable rows to {self.written}")
            if Path(self.media_root).resolve() != Path(self.written).parent.resolve():
                lines.append(f"  their media start from --media_root {self.media_root}")
        return "\n".join(lines)


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


@dataclass(frozen=True)
class Reading(Dataset):
    """Row number -> (the same, its Finding), for the processes of a DataLoader."""

    rows: Rows
    processor: object
    training: TrainConfig
    longest: int  # tokens of a prompt

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Finding]:
        return index, self.finding(index)

    def finding(self, index: int) -> Finding:
        try:
            row = self.rows.row(index)
        except ValueError as error:
            return Finding(problem="malformed rows", message=str(error))
        source = row.example.columns.get("data_source") or ""
        known = {
            "data_type": row.data_type,
            "problem_type": row.example.problem_type,
            "data_source": str(source),
        }
        try:
            check_answer(row.example, self.training)  # before its media are read
            part = checked(
                row.read(self.rows.max_frames), self.processor, self.training, self.longest
            )
        except MissingMedia as error:
            return Finding(**known, problem="missing media", message=str(error))
        except MediaError as error:
            return Finding(**known, problem="broken media", message=str(error))
        except TooLong as error:
            return Finding(error.tokens, **known, problem="over-long prompts", message=str(error))
        except ValueError as error:
            return Finding(**known, problem="malformed rows", message=str(error))
        return Finding(part["input_ids"].shape[1], **known)


def check_data(config: DataCheckConfig) -> Report:
    """Reads every row once, as training would. Raises InputError for a data set or model that
    cannot be opened, or not be trained on such rows."""
    from zipr1.training.questions import (
        check_prompts,  # which want the extra `train`
        longest_prompt,
    )

    training = config.training()
    if config.write:
        check_target(config.write)
    processor = load_processor(training.model)
    model = SimpleNamespace(config=load_config(training.model))
    check_prompts(model, training)
    load_function(training.reward_function)
    limit_pixels(processor, training.max_pixels, training.video_max_pixels)
    reading = Reading(
        open_part(config.file, training, processor),
        processor,
        training,
        longest_prompt(model, training),
    )
    found = findings(reading, config.workers)
    report = summary(found, reading.longest)
    usable = [number for number, finding in enumerate(found) if not finding.problem]
    if not usable:
        return report
    example = reading.rows.example(usable[0])
    inputs = checked(example, processor, training, reading.longest)
    report = replace(report, prompt=shown_prompt(processor, inputs), answer=example.answer)
    if config.write:
        write_rows(reading.rows, usable, config.write)
        report = replace(report, written=config.write, media_root=str(reading.rows.root))
    return report


def summary(found: list[Finding], longest: int) -> Report:
    """The report on rows, given in their order."""
    problems = {name: [f.message for f in found if f.problem == name] for name in PROBLEMS}
    counts = {
        name: dict(Counter(getattr(finding, name) for finding in found if finding.data_type))
        for name in ("data_type", "problem_type", "data_source")
    }
    return Report(
        rows=len(found),
        usable=sum(not finding.problem for finding in found),
        **counts,
        max_prompt_length=longest,
        longest_prompt=max((finding.tokens for finding in found), default=0),
        problems=problems,
    )


def findings(reading: Dataset, workers: int) -> list[Finding]:
    """In the order of the rows, with a progress bar on stderr.

    Rows at which a process that reads was killed are read again, each in a process of its own; one
    that ends that process too is broken.
    """
    found: dict[int, Finding] = {}
    pending = list(range(len(reading)))
    with progress(total=len(reading), desc="data check", unit="row") as bar:
        while pending and not read(reading, pending, workers, found, bar):
            pending = [index for index in pending if index not in found]
            # Each process has been handed two rows at most that are not read yet, in order.
            for index in pending[: 2 * workers]:
                if not read(reading, [index], 1, found, bar):
                    found[index] = Finding(problem="broken media", message=KILLED.format(index))
                    bar.update()
            pending = [index for index in pending if index not in found]
    return [found[index] for index in sorted(found)]


def read(
    reading: Dataset, indices: list[int], workers: int, found: dict[int, Finding], bar
) -> bool:
    """Adds the findings of the rows number `indices`; False if a process was killed before all."""
    # In order, a long video would keep the other processes waiting.
    loader = DataLoader(
        Subset(reading, indices), batch_size=None, num_workers=workers, in_order=False
    )
    try:
        for index, finding in loader:
            found[index] = finding
            bar.update()
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):  # another error, of the row that was read
            raise
        return False
    return True
