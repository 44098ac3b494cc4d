"""How `datasets` reads CSV files, and the metadata files of folders of images and videos, here: each
value as it is written. Its own reader makes 7 of 007 and nothing of the texts None, NA and null."""

from collections.abc import Iterator

import pandas as pd  # `datasets` makes pd.read_csv and open read packed files, too
import pyarrow
from datasets.builder import Key
from datasets.packaged_modules.csv.csv import Csv
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from datasets.packaged_modules.videofolder.videofolder import VideoFolder

from zipr1.common.errors import InputError
from zipr1.data.json_builder import batches, column_types, json_array
from zipr1.data.json_rows import rows_of
from zipr1.data.source import short

TEXTS = {"dtype": str, "keep_default_na": False, "na_values": [""]}  # an empty cell is missing


class CsvRows(Csv):
    """A builder of `datasets` for .csv and .tsv files."""

    def _generate_tables(self, base_files, files_iterables):
        if self.info.features is not None:  # by the data set's card
            self.config.keep_default_na, self.config.na_values = False, [""]
            yield from super()._generate_tables(base_files, files_iterables)
            return
        files = (file for names in files_iterables for file in names)
        tables = (
            table for file in files for table in csv_tables(file, self.config.pd_read_csv_kwargs)
        )
        for number, table in enumerate(tables):
            yield Key(0, number), table


class Metadata:
    """For builders of folders: their file metadata.csv or metadata.jsonl."""

    def _read_metadata(self, metadata_file: str, metadata_ext: str = "") -> Iterator[pyarrow.Table]:
        if self.config.filters is None and self.config.features is None and metadata_ext == ".csv":
            yield from csv_tables(metadata_file, {"chunksize": 10_000})
        elif self.config.filters is None and metadata_ext == ".jsonl":
            yield from json_tables(metadata_file)
        else:
            yield from super()._read_metadata(metadata_file, metadata_ext)


class ImageRows(Metadata, ImageFolder):
    pass


class VideoRows(Metadata, VideoFolder):
    pass


def csv_tables(file: str, options: dict) -> Iterator[pyarrow.Table]:
    """Tables of texts. Raises InputError for a column that comes twice, and for rows with more
    values than the first line has names, whose first values would be left out."""
    for rows in pd.read_csv(file, iterator=True, **{**options, **TEXTS}):
        names = [str(name) for name in rows.columns]
        twice = [name for name in names if name.endswith(".1") and name[:-2] in names]
        if twice:
            raise InputError(
                f"{file}: it has the column {short(twice[0][:-2])!r} twice: remove one"
            )
        if not isinstance(rows.index, pd.RangeIndex):
            raise InputError(
                f"{file}: its rows have more values than its first line has names "
                f"({short(', '.join(names))}): name all columns"
            )
        schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
        rows.columns = names
        yield pyarrow.Table.from_pandas(rows, schema=schema, preserve_index=False)


def json_tables(file: str) -> Iterator[pyarrow.Table]:
    """Tables of the objects in the lines of a file."""
    with open(file, "rb") as lines:
        types = column_types([(file, rows_of(lines, file))])
    with open(file, "rb") as lines:
        for rows in batches(rows_of(lines, file)):
            columns = {name: [row.get(name) for row in rows] for name in types}
            yield pyarrow.table(
                {
                    name: json_array(columns[name])
                    if kind == pyarrow.json_()
                    else pyarrow.array(columns[name], kind)
                    for name, kind in types.items()
                }
            )
