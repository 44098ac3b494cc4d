"""Tables of `datasets` from files, folders and the hub, checked before `datasets` changes them."""

import tarfile
from glob import escape
from os.path import exists
from pathlib import Path

from zipr1.common.errors import InputError, MissingExtra
from zipr1.data.source import short

FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}  # what datasets calls them
# What `datasets` raises for files that it cannot read: RuntimeError for a script among them.
UNREADABLE = (ValueError, OSError, LookupError, RuntimeError, tarfile.TarError)


def load_table(source: str, name: str | None, split: str | None):
    """A datasets.Dataset. Raises InputError for what cannot be read."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtra("datasets is needed to read rows: pip install 'zipr1[train]'") from error
    path = Path(source)
    if not exists(path) and (path.suffix in FORMATS or source.count("/") != 1):
        raise InputError(f"{source}: no such file or folder, nor a hub id (owner/name)")
    if path.is_file() and path.suffix not in FORMATS:
        raise InputError(f"{source}: expected a name that ends in {', '.join(FORMATS)}")
    saved = (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    if name and (saved or path.is_file()):
        raise InputError(f"{source}: no configurations here; leave out {name!r}")
    try:
        if saved:
            return saved_table(datasets.load_from_disk(source), source, split)
        return loaded_table(source, name, split or "train")
    except StopIteration as error:  # what datasets says of an empty file
        raise InputError(f"{source}: no rows; give a data set with at least one") from error
    except InputError:
        raise
    except (datasets.exceptions.DatasetGenerationError, *UNREADABLE) as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        reason = short(error.__cause__ or error)
        raise InputError(
            f"{source}: split {split or 'train'!r} cannot be read ({reason})"
        ) from error


def loaded_table(source: str, name: str | None, split: str):
    """What `datasets.load_dataset` reads, of JSON each value as it is written. Raises InputError,
    and what `datasets` raises."""
    import datasets

    path = Path(source)
    if path.is_file():
        place = {"path": FORMATS[path.suffix], "data_files": escape(source)}
    else:
        place = {"path": source, "name": name}
    # The folder is one in which nothing is prepared: of an earlier reading by others, `datasets`
    # would take the types of the columns.
    unprepared = str(Path(datasets.config.HF_DATASETS_CACHE) / "zipr1")
    builder = datasets.load_dataset_builder(**place, cache_dir=unprepared)
    if builder.name != "json":
        return datasets.load_dataset(**place, split=split)
    from zipr1.data.json_builder import json_rows

    builder = json_rows(builder)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


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
