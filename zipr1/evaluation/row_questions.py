"""Rows of a data set as questions of an evaluation: read batch by batch, as training reads them."""

import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from zipr1.common.documents import read_lines
from zipr1.common.errors import RunError
from zipr1.common.files import replace as write_file
from zipr1.common.progress import progress
from zipr1.data.example import Example
from zipr1.data.processor import limit_pixels
from zipr1.data.row import Row
from zipr1.data.source import MediaFile
from zipr1.evaluation.config import EvalConfig
from zipr1.evaluation.generation import Answer, as_shortener
from zipr1.evaluation.questions import Score, cannot_be_shortened
from zipr1.evaluation.usable_rows import checked, open_part, task_group
from zipr1.rewards.functions import RewardLog, from_function, load_function
from zipr1.rewards.graders import grade

LEFT_OUT = "left-out.jsonl"
READERS = 4  # threads that decode the media of a batch


@dataclass(frozen=True)
class RowQuestion:
    """A row whose media are not read yet."""

    id: str
    task: str
    number: int
    images: int
    videos: int


class RowQuestions:
    """The first rows of a data set (EvalConfig.questions; unset, all).

    A row that cannot be used is left out under every method: left-out.jsonl says why. `items`: the
    rows that are well-formed; `reasons`: the id of a row that is left out -> why; `recovered`: rows
    that an earlier run in the folder has left out and that can be used now, since their media are
    there. `media`: hash of the names, sizes and times of all media files. Raises InputError for a
    data set that cannot be opened, and RunError where no row can be used.
    """

    def __init__(self, config: EvalConfig, processor, longest: int, folder: Path):
        self.config, self.processor, self.longest = config, processor, longest
        self.path = folder / LEFT_OUT
        self.functions = load_function(config.reward_function)
        limit_pixels(processor, config.max_pixels, config.video_max_pixels)
        self.rows = open_part(config.data, config, processor)
        self.total = min(config.questions or len(self.rows), len(self.rows))
        self.items: list[RowQuestion] = []
        self.reasons: dict[str, str] = {}
        known: set[str] = set()
        without: dict[str, str] = {}  # id -> its media file that is missing
        states = sha256()
        for number in progress(range(self.total), desc="reading rows", unit="row", leave=False):
            try:
                row = self.rows.row(number)
            except ValueError as error:
                self.reasons[f"row {number}"] = str(error)
                continue
            name = row.example.id
            if name in known:  # an id that several rows have names none of them
                name = f"{name} (row {number})"
            known.add(name)
            for file in files_of(row):
                states.update(repr((file.name, state := state_of(file.name))).encode())
                if state is None:
                    without.setdefault(name, f"row {number}: {file.name}: no such file")
            task, videos = task_group(row.example), int(bool(row.video))
            self.items.append(RowQuestion(name, task, number, len(row.images), videos))
        earlier = {line["id"] for line in self.left_out_earlier()}
        self.read([item for item in self.items if item.id in earlier], keep=False)
        self.recovered = earlier & known - set(self.reasons)
        self.media = states.hexdigest()[:16]
        # Also where a disk is not mounted: the answers of an earlier run are to stay.
        unusable = without | self.reasons
        if len(unusable) == self.total:
            raise RunError(
                f"{config.data}: none of {self.total} rows can be used; the first: "
                f"{next(iter(unusable.values()))}"
            )

    def left_out_earlier(self) -> list[dict]:
        """Lines in the file of earlier runs; those without an id are passed over."""
        lines = read_lines(self.path)[0] if self.path.is_file() else []
        return [line for line in lines if isinstance(line.get("id"), str)]

    def parts(self, rule, method: str, size: int) -> list[Sequence[RowQuestion]]:
        shortener = as_shortener(rule)
        found = [
            one for one in self.items if not shortener or shortener.takes(one.images, one.videos)
        ]
        if not found:
            raise cannot_be_shortened(method)
        parts: list[Sequence[RowQuestion]] = []
        for video in (False, True):  # as generation.batches
            alike = [one for one in found if (one.videos > 0) == video]
            parts += [alike[i : i + size] for i in range(0, len(alike), size)]
        return parts

    def read(self, part: Sequence[RowQuestion], keep: bool = True) -> list[Example]:
        """The whole rows that training could use; the reasons of the others are noted, and written
        unless `keep` is false."""
        due = [item for item in part if item.id not in self.reasons]
        examples = []
        with ThreadPoolExecutor(READERS) as readers:
            for item, future in [(item, readers.submit(self.example, item)) for item in due]:
                try:
                    example = future.result()
                    checked(example, self.processor, self.config, self.longest)
                except ValueError as error:  # MediaError and InputError are ValueErrors
                    self.reasons[item.id] = str(error)
                else:
                    examples.append(example)
        if keep:
            self.write_reasons()
        return examples

    def example(self, item: RowQuestion) -> Example:
        return replace(self.rows.example(item.number), id=item.id)

    def write_reasons(self) -> None:
        """Those of rows that only a longer run has stay."""
        mine = {item.id for item in self.items} | self.reasons.keys()
        rows = [line for line in self.left_out_earlier() if line["id"] not in mine]
        rows += [{"id": name, "reason": reason} for name, reason in self.reasons.items()]
        if rows or self.path.is_file():
            write_file(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def left_out(self) -> set[str]:
        return set(self.reasons)

    def score(self, answers: list[Answer]) -> list[Score]:
        """By the reward function, of whose values those above one half are correct; else by the
        graders."""
        if self.functions is None:
            return [graded_score(answer, self.config.graded) for answer in answers]
        pairs = [(answer.example, answer.text) for answer in answers]
        ids = [answer.token_ids for answer in answers]
        values = from_function(self.functions, pairs, ids, RewardLog(0, 0, len(answers)))
        return [Score(value > 0.5, None if math.isnan(value) else value) for value in values]

    def report(self) -> None:
        """Says on stderr how many rows were left out."""
        if self.reasons:
            print(
                f"zipr1: {len(self.reasons)} of {self.total} rows cannot be used and are left out; "
                f"{self.path} says why",
                file=sys.stderr,
            )


def files_of(row: Row) -> list[MediaFile]:
    """The media of a row that are files on disk; bytes belong to the rows."""
    files = [*row.images, row.video] if row.video else [*row.images]
    return [file for file in files if file.data is None]


def state_of(path: str) -> tuple[int, int] | None:
    """(bytes, time of the last change) of a file; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # also for a name that is too long, or has a zero byte
        return None
    return found.st_size, found.st_mtime_ns


def graded_score(answer: Answer, graded: bool) -> Score:
    correct = grade(answer.example, answer.text) == 1
    return Score(correct, (grade(answer.example, answer.text, True) or 0.0) if graded else None)
