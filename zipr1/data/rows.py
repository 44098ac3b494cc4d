"""Rows to post-train on, from where users keep them; memory-mapped by `datasets`, media read when
their row is used."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from os.path import exists
from pathlib import Path

import numpy as np

from zipr1.common.errors import InputError
from zipr1.data.columns import MEDIA, general_row
from zipr1.data.display import FrameSize
from zipr1.data.example import Example
from zipr1.data.features import check_media_columns, plain_values, without_media
from zipr1.data.formats import readable
from zipr1.data.renaming import renamed
from zipr1.data.row import Row
from zipr1.data.source import short
from zipr1.data.tables import load_table
from zipr1.data.video_r1 import COLUMNS, video_r1_row


@dataclass(frozen=True)
class Rows:
    """The rows of a data set by their number."""

    table: object  # datasets.Dataset that gives Arrow tables: media stay bytes
    features: object  # datasets.Features that decode the rest
    root: Path  # the folder that holds all media
    max_frames: int  # of a video
    think: bool  # append the instruction to answer in <think> tags to Video-R1's questions
    frame_size: FrameSize | None = None  # larger frames are shrunk while decoding

    def __len__(self) -> int:
        return len(self.table)

    def values(self, index: int) -> dict:
        """The columns of row `index` by name, class labels by theirs; media are not decoded. Raises
        InputError for a label that does not exist."""
        values = self.features.decode_example(self.table[index].to_pylist()[0])
        return plain_values(values, self.features, index)

    def row(self, index: int) -> Row:
        """Row `index` without its media. Raises InputError for a malformed one, which names row and
        column."""
        values = self.values(index)
        if values.keys() >= COLUMNS:
            return video_r1_row(values, index, self.root, self.think)
        return general_row(values, index, self.root)

    def example(self, index: int) -> Example:
        """Row `index`, whole. Raises InputError, as `row` does, and MediaError."""
        return self.row(index).read(self.max_frames, self.frame_size)


def open_rows(
    data,
    media_root: str | None = None,
    max_frames: int = 16,
    think: bool = False,
    frame_size: FrameSize | None = None,
    columns: str | None = None,
) -> Rows:
    """The rows of a Video-R1 file, of a folder of `Dataset.save_to_disk`, or of what
    `datasets.load_dataset` takes: a .json, .jsonl or .parquet file, a folder, a hub id. Behind it
    may stand a configuration and, in brackets, what `datasets` takes for a split:
    owner/name:config[validation], rows.json[train[:1000]]; else it is "train". Or a
    datasets.Dataset.

    `media_root` holds all media; it defaults to the folder that `data` lies in, of a hub id to the
    cache of `datasets`, of a Dataset to the current folder. `columns` renames columns, as prompt=question,answer=solution. Raises
    InputError for a file that is missing, cannot be read or lacks columns.
    """
    if isinstance(data, str):
        source, name, split = named(data)
        table, root = load_table(source, name, split), default_root(source)
    else:
        table, root, data = plain_dataset(data), Path(), "the data set"
    table = renamed(table, columns, data)
    if not len(table):
        raise InputError(f"{data}: no rows; give a data set with at least one")
    known = set(table.column_names)
    if not known >= COLUMNS and not readable(known):
        raise InputError(
            f"{data}: columns {short(', '.join(sorted(known)))}: expected those of Video-R1 "
            f"({', '.join(sorted(COLUMNS))}, options, path), messages or conversations, or prompt, "
            f"answer and, for media, one of {', '.join(MEDIA)}; rename them, as "
            "--columns prompt=question,answer=solution"
        )
    read = frozenset({"path"} if known >= COLUMNS else MEDIA)
    check_media_columns(table.features, read, data)
    root = Path(media_root) if media_root else root
    features = without_media(table.features)
    return Rows(table.with_format("arrow"), features, root, max_frames, think, frame_size)


def plain_dataset(data):
    """A datasets.Dataset that gives its own rows. Raises InputError for anything else."""
    import datasets

    if not isinstance(data, datasets.Dataset):
        raise InputError(
            f"rows of type {type(data).__name__}: give a datasets.Dataset, one split of a "
            "DatasetDict, or the name of a file, folder or hub id"
        )
    if data.format["type"] == "custom":
        raise InputError(
            "the data set has a transform (set_transform), which would be left out; apply it with "
            "map() instead"
        )
    return data


def default_root(source: str) -> Path:
    """The folder of a file or data set on disk; of a hub id, where `datasets` keeps its files."""
    if exists(source):
        return Path(source) if Path(source).is_dir() else Path(source).parent
    import datasets

    return Path(datasets.config.HF_CACHE_HOME)


def named(data: str) -> tuple[str, str | None, str | None]:
    """The file, folder or hub id, the configuration and the split that "source:config[split]"
    names; None: not named. A file or folder of exactly that name is taken for itself."""
    if exists(data):
        return data, None, None
    if data.endswith("[]"):
        raise InputError(f"{data}: the brackets are empty: name a split in them, as [train[:100]]")
    for bracket in re.finditer(r"\[", data):  # a file's own name may have some
        if data.endswith("]") and exists(data[: bracket.start()]):
            return data[: bracket.start()], None, data[bracket.end() : -1]
    found = re.fullmatch(r"([^[]+?)(?::([\w.-]+))?(?:\[(.+)\])?", data)
    return found.groups() if found else (data, None, None)


def order(rows: Rows, seed: int) -> Callable[[int], int]:
    """From the number of a draw to that of a row: each row once an epoch, in an order that is a
    function of (seed, epoch)."""

    def index(position: int) -> int:
        epoch, place = divmod(position, len(rows))
        return int(permutation(len(rows), seed, epoch)[place])

    return index


@lru_cache(maxsize=2)  # a batch may lie across the end of an epoch
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
