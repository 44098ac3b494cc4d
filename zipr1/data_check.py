"""Everything that is wrong with a data set, before a GPU hour is spent: each row is read once, as training would read it."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoProcessor

from zipr1.config import check_positive
from zipr1.data import Rows, open_rows
from zipr1.graders import grade
from zipr1.inputs import MediaError, MissingMedia, prepare
from zipr1.model import EMBEDDED, VISION_FAMILIES

PROBLEMS = ("missing media", "broken media", "malformed rows", "over-long prompts")
SHOWN = 5  # of each problem, in the report for people


@dataclass
class DataCheckConfig:
    """`zipr1 data check`: reads a data set once, and reports what it holds and what of it cannot be used."""

    file: str
    """Video-R1 JSON, or .jsonl, .parquet, a folder or hub id that datasets takes."""
    media_root: str | None = None
    """Where paths of media start; unset, the folder of the file."""
    split: str = "train"
    """Which one, of a data set with several."""
    model: str = "zipr1/tiny"
    """The model whose processor counts the tokens of a prompt."""
    max_prompt_length: int | None = None
    """Tokens; unset, the positions of the model."""
    max_frames: int = 16
    """Frames of a clip that are read."""
    think: bool = False
    """Ask Video-R1's questions for <think>."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that read; 0: this one."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self):
        check_positive(self, "max_prompt_length", "max_frames")
        if self.workers < 0:
            raise ValueError(f"workers={self.workers}: must be at least 0")


class DataError(Exception):
    """Rows that cannot be used; the message counts them."""


@dataclass(frozen=True)
class Finding:
    """What one row is, "" where it cannot be told, and what is wrong with it."""

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

    def describe(self) -> str:
        lines = [f"{self.rows} rows, {self.usable} of them usable"]
        for name in ("data_type", "problem_type", "data_source"):
            counts = getattr(self, name)
            lines.append(f"{name:<20}" + ", ".join(f"{key or '(none)'} {counts[key]}" for key in sorted(counts)))
        lines.append(f"{'longest prompt':<20}{self.longest_prompt} tokens of at most {self.max_prompt_length}")
        for problem, messages in self.problems.items():
            lines.append(f"{problem:<20}{len(messages)}")
            lines += [f"  {message}" for message in messages[:SHOWN]]
            lines += [f"  and {len(messages) - SHOWN} more (--json has them all)"] if len(messages) > SHOWN else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Reading(Dataset):
    """Row number -> Finding, for the processes of a DataLoader."""

    rows: Rows
    processor: object
    limit: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Finding:
        try:
            row = self.rows.row(index)
        except ValueError as error:
            return Finding(problem="malformed rows", message=str(error))
        source = row.example.columns.get("data_source") or ""
        known = {"data_type": row.data_type, "problem_type": row.example.problem_type, "data_source": str(source)}
        try:
            if grade(row.example, row.example.answer) != 1:
                reason = f"its own answer {row.example.answer!r} is not right as {row.example.problem_type}: mend one of them"
                return Finding(**known, problem="malformed rows", message=f"row {row.example.id}: {reason}")
            tokens = prepare(self.processor, [row.read(self.rows.max_frames)])["input_ids"].shape[1]
        except MissingMedia as error:
            return Finding(**known, problem="missing media", message=str(error))
        except MediaError as error:
            return Finding(**known, problem="broken media", message=str(error))
        except ValueError as error:  # of the processor, or of an unknown problem type
            return Finding(**known, problem="malformed rows", message=f"row {row.example.id}: {error}")
        if tokens > self.limit:
            message = f"row {row.example.id}: a prompt of {tokens} tokens, above {self.limit}"
            return Finding(tokens, **known, problem="over-long prompts", message=message)
        return Finding(tokens, **known)


def check_data(config: DataCheckConfig) -> Report:
    """Reads every row once. Raises ValueError and FileNotFoundError for a data set or model that cannot be opened."""
    processor, positions = load_processor(config.model)
    max_frames = min(config.max_frames, processor.video_processor.max_frames)
    rows = open_rows(config.file, config.media_root, max_frames, config.think, config.split)
    reading = Reading(rows, processor, config.max_prompt_length or positions)
    found = list(findings(reading, config.workers))
    problems = {name: [f.message for f in found if f.problem == name] for name in PROBLEMS}
    counts = {
        name: dict(Counter(getattr(finding, name) for finding in found if finding.data_type))
        for name in ("data_type", "problem_type", "data_source")
    }
    return Report(
        rows=len(found),
        usable=sum(not finding.problem for finding in found),
        **counts,
        max_prompt_length=reading.limit,
        longest_prompt=max(finding.tokens for finding in found),
        problems=problems,
    )


def findings(reading: Reading, workers: int) -> Iterator[Finding]:
    """In the order of the rows, with a progress bar on stderr."""
    loader = DataLoader(reading, batch_size=None, num_workers=workers)
    yield from tqdm(loader, desc="data check", unit="row", total=len(reading))


def load_processor(name: str) -> tuple:
    """(processor, positions) of a Qwen-VL model, without its weights. Raises ValueError for another model."""
    source = EMBEDDED.get(name, name)
    if not Path(source).is_dir() and name.count("/") != 1:
        raise FileNotFoundError(f"{name}: neither a model folder nor a hub id (owner/name)")
    try:
        config = AutoConfig.from_pretrained(source)
    except OSError as error:
        raise OSError(f"{name}: no model could be loaded ({error})") from error
    if config.model_type not in VISION_FAMILIES:
        raise ValueError(f"{name}: model family {config.model_type!r}: use one of {', '.join(VISION_FAMILIES)}")
    return AutoProcessor.from_pretrained(source), config.get_text_config().max_position_embeddings
