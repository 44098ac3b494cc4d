"""Rows to post-train on, from where users keep them; memory-mapped by `datasets`, media read when their row is used."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from glob import escape
from pathlib import Path

import numpy as np

from zipr1.data.columns import MEDIA, general
from zipr1.data.example import Example
from zipr1.data.row import Row
from zipr1.data.video_r1 import COLUMNS, published

FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}  # what datasets calls them


@dataclass(frozen=True)
class Rows:
    """The rows of a data set by their number."""

    table: object  # datasets.Dataset that gives Arrow tables: media stay bytes
    features: object  # datasets.Features that decode the rest
    root: Path  # that paths of media start from
    max_frames: int  # of a clip
    think: bool  # ask Video-R1's questions for <think>

    def __len__(self) -> int:
        return len(self.table)

    def row(self, index: int) -> Row:
        """Row `index` without its media. Raises ValueError for a malformed one, which names row and column."""
        values = self.features.decode_example(self.table[index].to_pylist()[0])
        if values.keys() >= COLUMNS:
            return published(values, index, self.root, self.think)
        return general(values, index, self.root)

    def example(self, index: int) -> Example:
        """Row `index`, whole. Raises ValueError, as `row` does, and MediaError."""
        return self.row(index).read(self.max_frames)


def open_rows(
    data: str, media_root: str | None = None, max_frames: int = 16, think: bool = False
) -> Rows:
    """The rows of a Video-R1 file, of a folder of `Dataset.save_to_disk`, or of what `datasets.load_dataset` takes: a .json,
    .jsonl or .parquet file, a folder, a hub id. Behind it may stand a configuration and, in brackets, what `datasets` takes for
    a split: owner/name:config[validation], rows.json[train[:1000]]; else it is "train".

    `media_root` defaults to the folder that `data` lies in. Raises FileNotFoundError, and ValueError for a file that cannot be
    read or lacks columns.
    """
    source, name, split = named(data)
    table = load_table(source, name, split)
    if not len(table):
        raise ValueError(f"{data}: no rows; give a data set with at least one")
    columns = set(table.column_names)
    if not columns >= COLUMNS and not (
        "prompt" in columns and columns & {"answer", "completion", "solution"}
    ):
        raise ValueError(
            f"{data}: columns {', '.join(sorted(columns))}: expected those of Video-R1 ({', '.join(sorted(COLUMNS))}, options, "
            f"path), or prompt, answer and, for media, one of {', '.join(MEDIA)}; rename them"
        )
    default = Path(source) if Path(source).is_dir() else Path(source).parent
    root = Path(media_root) if media_root else default
    return Rows(table.with_format("arrow"), without_media(table.features), root, max_frames, think)


def named(data: str) -> tuple[str, str | None, str | None]:
    """The file, folder or hub id, the configuration and the split that "source:config[split]" names; None: not named. A file or
    folder that is called so is taken for itself."""
    found = (
        None if Path(data).exists() else re.fullmatch(r"([^[]+?)(?::([\w.-]+))?(?:\[(.+)\])?", data)
    )
    return found.groups() if found else (data, None, None)


def load_table(source: str, name: str | None, split: str | None):
    """A datasets.Dataset."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "datasets is needed to read rows: pip install 'zipr1[train]'"
        ) from error
    path = Path(source)
    if not path.exists() and (path.suffix in FORMATS or source.count("/") != 1):
        raise FileNotFoundError(f"{source}: no such file or folder, nor a hub id (owner/name)")
    if path.is_file() and path.suffix not in FORMATS:
        raise ValueError(f"{source}: expected a name that ends in {', '.join(FORMATS)}")
    saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    if name and (saved or path.is_file()):
        raise ValueError(f"{source}: no configurations here; leave out {name!r}")
    try:
        if saved:
            return saved_table(datasets.load_from_disk(source), source, split)
        if path.is_file():
            return datasets.load_dataset(
                FORMATS[path.suffix], data_files=escape(source), split=split or "train"
            )
        return datasets.load_dataset(source, name, split=split or "train")
    except StopIteration as error:  # what datasets says of an empty file
        raise ValueError(f"{source}: no rows; give a data set with at least one") from error
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        raise ValueError(
            f"{source}: split {split or 'train'!r} cannot be read ({error.__cause__ or error})"
        ) from error


def saved_table(saved, source: str, split: str | None):
    """Of what was saved by `save_to_disk` the one data set, or a split of several."""
    if not isinstance(saved, dict):
        if split:
            raise ValueError(f"it is one data set without splits; leave out [{split}]")
        return saved
    if (split or "train") not in saved:
        raise ValueError(
            f"its splits are {', '.join(saved)}; give one as {source}[{next(iter(saved))}]"
        )
    return saved[split or "train"]


def without_media(features):
    """How to decode what is no picture, clip or sound: those are read by us, who name what is broken."""
    import datasets

    media = (datasets.Image, datasets.Video, datasets.Audio)

    def plain(feature):
        if isinstance(feature, datasets.List):
            return datasets.List(plain(feature.feature))
        return replace(feature, decode=False) if isinstance(feature, media) else feature

    return datasets.Features({name: plain(feature) for name, feature in features.items()})


def order(rows: Rows, seed: int) -> Callable[[int], int]:
    """From the number of a draw to that of a row: each row once an epoch, in an order that is a function of (seed, epoch)."""

    def index(position: int) -> int:
        epoch, place = divmod(position, len(rows))
        return int(permutation(len(rows), seed, epoch)[place])

    return index


@lru_cache(maxsize=2)  # a batch may lie across the end of an epoch
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
