"""Tables of `datasets` from files, folders and the hub, checked before `datasets` changes them."""

import tarfile
from dataclasses import fields
from functools import cache
from glob import escape
from hashlib import sha256
from os.path import abspath, exists
from pathlib import Path

from zipr1.common.errors import InputError, MissingExtra
from zipr1.data.source import short

FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}  # what datasets calls them
NO_OPTIONS = ("name", "version", "data_dir", "data_files", "description", "features")
NO_ROWS = "no rows; give a data set with at least one"
READERS = ("json_builder", "json_rows", "csv_builder")  # by whose code prepared files are named
# What `datasets` raises for files that it cannot read: RuntimeError for a script among them.
UNREADABLE = (ValueError, OSError, LookupError, RuntimeError, tarfile.TarError)


@cache
def hash_of_readers() -> str:
    """As `datasets` names what it has prepared: by the source of the reader, so that files are read
    again by another one."""
    code = (Path(__file__).with_name(f"{name}.py").read_bytes() for name in READERS)
    return sha256(b"".join(code)).hexdigest()[:16]


def load_table(source: str, name: str | None, split: str | None):
    """A datasets.Dataset. Raises InputError for what cannot be read."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtra("datasets is needed to read rows: pip install 'zipr1[train]'") from error
    path = Path(source)
    suffix = path.suffix.lower()
    if not exists(path) and (suffix in FORMATS or source.count("/") != 1):
        raise InputError(f"{source}: no such file or folder, nor a hub id (owner/name)")
    if path.is_file() and suffix not in FORMATS:
        raise InputError(f"{source}: expected a name that ends in {', '.join(FORMATS)}")
    saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    if name and (saved or path.is_file()):
        raise InputError(f"{source}: no configurations here; leave out {name!r}")
    try:
        if saved:
            return saved_table(datasets.load_from_disk(source), source, split)
        return loaded_table(source, name, split or "train")
    except StopIteration as error:  # what datasets says of an empty file
        raise InputError(f"{source}: {NO_ROWS}") from error
    except InputError:
        raise
    except (datasets.exceptions.DatasetGenerationError, *UNREADABLE) as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        reason = short(" ".join(str(error.__cause__ or error).split()))
        if "corresponds to no data" in reason or "BatchSize" in reason:  # no file, an empty Parquet
            raise InputError(f"{source}: split {split or 'train'!r}: {NO_ROWS}") from error
        raise InputError(
            f"{source}: split {split or 'train'!r} cannot be read ({reason})"
        ) from error


def loaded_table(source: str, name: str | None, split: str):
    """What `datasets.load_dataset` reads; of JSON and CSV each value as it is written. Raises
    InputError, and what `datasets` raises."""
    import datasets

    path = Path(source)
    if path.is_file():
        place = {"path": FORMATS[path.suffix.lower()], "data_files": escape(source)}
    else:
        place = {"path": abspath(source) if path.is_dir() else source, "name": name}
    builder = datasets.load_dataset_builder(**place)
    if builder.name not in own_builders():
        return datasets.load_dataset(**place, split=split)
    # In a folder in which nothing is prepared: of an earlier reading by others, `datasets` would
    # take the types of the columns.
    unprepared = str(Path(datasets.config.HF_DATASETS_CACHE) / "zipr1")
    builder = own_builder(datasets.load_dataset_builder(**place, cache_dir=unprepared))
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def own_builders() -> dict[str, type]:
    """The builders of `datasets` that are replaced, by name."""
    from zipr1.data import csv_builder, json_builder

    return {
        "json": json_builder.JsonRows,
        "csv": csv_builder.CsvRows,
        "imagefolder": csv_builder.ImageRows,
        "videofolder": csv_builder.VideoRows,
    }


def own_builder(builder):
    """What reads the files of `builder` in its stead, with the same options."""
    config = builder.config
    options = {
        option.name: getattr(config, option.name)
        for option in fields(config)
        if option.name not in NO_OPTIONS and getattr(config, option.name) != option.default
    }
    return own_builders()[builder.name](
        dataset_name=builder.dataset_name,
        config_name=config.name,
        hash=hash_of_readers(),
        base_path=builder.base_path,
        repo_id=builder.repo_id,
        token=builder.token,
        features=builder.info.features,  # those of the data set's card, or none
        data_files=config.data_files,
        **options,
    )


def saved_table(saved, source: str, split: str | None):
    """Of what `save_to_disk` wrote: the one data set, or a split of several. Raises InputError."""
    if not isinstance(saved, dict):
        if split:
            raise InputError(f"it is one data set without splits; leave out [{split}]")
        return saved
    if (split or "train") not in saved:
        raise InputError(
            f"its splits are {', '.join(saved)}; give one as {source}[{next(iter(saved))}]"
        )
    return saved[split or "train"]
