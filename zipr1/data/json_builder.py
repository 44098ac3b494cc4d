"""How `datasets` reads JSON here: each value as it is written.

Its own reader makes of a column with texts and numbers its type Json in a form in which the text
"007" is 7, takes texts for dates, and ends the process for some files. Here a column whose values
Arrow keeps exactly has Arrow's type; any other holds each value as a text of JSON.
"""

import json
from collections.abc import Iterator
from itertools import chain, islice

import datasets
import pyarrow
from datasets.packaged_modules.json.json import FullReadDisallowed, Json

from zipr1.common.errors import InputError
from zipr1.data.features import holds_json
from zipr1.data.json_rows import rows_of
from zipr1.data.source import short

BATCH = 200  # rows, of which each may hold images in base64
INEXACT = (pyarrow.ArrowException, OverflowError, TypeError, ValueError)


class JsonRows(Json):
    """A builder of `datasets` for .json, .jsonl and .ndjson files, packed or not."""

    def _split_generators(self, dl_manager):
        declared = self.info.features
        splits = super()._split_generators(dl_manager)
        files = [file for split in splits for file in self.files(**split.gen_kwargs)]
        types = column_types((name, self.rows(file, name)) for file, name in files)
        if not types:
            raise InputError(f"{files[0][1]}: no rows; give a data set with at least one")
        if declared is None:
            schema = pyarrow.schema(list(types.items()))
            self.info.features = datasets.Features.from_arrow_schema(schema)
        else:  # by the data set's card
            kept = {
                name: datasets.Json() if holds_json(one) else one for name, one in declared.items()
            }
            self.info.features = datasets.Features(kept)
        return splits

    def _generate_tables(self, base_files, files_iterables, original_files, allow_full_read=True):
        if not allow_full_read:  # the types are found by reading all rows
            raise FullReadDisallowed()
        features = self.info.features
        encoded = {name for name, feature in features.items() if holds_json(feature)}
        batch = 0
        for file, name in self.files(base_files, files_iterables, original_files):
            for rows in batches(self.rows(file, name)):
                columns = {}
                for column in dict.fromkeys([*features, *chain.from_iterable(rows)]):
                    values = [row.get(column) for row in rows]
                    if column in encoded:
                        values = json_array(values)
                    elif features.get(column) == datasets.Value("string"):  # a card may say so
                        values = [as_text(value) for value in values]
                    columns[column] = values
                yield datasets.builder.Key(0, batch), self._cast_table(pyarrow.table(columns))
                batch += 1

    def files(self, base_files, files_iterables, original_files) -> Iterator[tuple[str, str]]:
        """The files to open, and what errors call them."""
        for names, original in zip(files_iterables, original_files, strict=True):
            for file in names:
                inner = str(file).partition("::")[0] if str(file).startswith("zip:") else ""
                yield file, f"{original}{inner.removeprefix('zip:/')}"

    def rows(self, file: str, name: str) -> Iterator[dict]:
        with open(file, "rb") as lines:  # `datasets` makes it open packed files, too
            yield from rows_of(lines, name, self.config.encoding, self.config.field)


def batches(rows: Iterator[dict]) -> Iterator[list[dict]]:
    while batch := list(islice(rows, BATCH)):
        yield batch


def column_types(files) -> dict[str, pyarrow.DataType]:
    """The type of each column of the `files`, pairs of a name and its rows. Raises InputError for a
    file that has columns which the first one lacks."""
    types: dict[str, pyarrow.DataType] = {}
    first = ""
    for name, rows in files:
        known = set(types)
        for batch in batches(rows):
            for column in dict.fromkeys(chain.from_iterable(batch)):
                found = exact_type([row.get(column) for row in batch])
                types[column] = joint(types.get(column, found), found)
        if first and not set(types) <= known:
            others = short(", ".join(sorted(set(types) - known)))
            raise InputError(
                f"{name}: it has the columns {others}, which {first} lacks: give files of one kind"
            )
        first = first or (name if types else "")
    return types


def joint(one: pyarrow.DataType, other: pyarrow.DataType) -> pyarrow.DataType:
    if pyarrow.types.is_null(one) or one == other:
        return other
    return one if pyarrow.types.is_null(other) else pyarrow.json_()


def exact_type(values: list) -> pyarrow.DataType:
    """Arrow's type where it keeps the values as they are, else that of JSON."""
    try:
        array = pyarrow.array(values)
    except INEXACT:
        return pyarrow.json_()
    exact = array.to_pylist() == values and "struct<>" not in str(array.type)
    return array.type if exact else pyarrow.json_()


def as_text(value) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def json_array(values: list) -> pyarrow.Array:
    texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return pyarrow.ExtensionArray.from_storage(
        pyarrow.json_(), pyarrow.array(texts, pyarrow.string())
    )
