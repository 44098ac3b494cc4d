"""Tables and curves: written by this version, by earlier ones, and broken."""

import json

import pytest

from zipr1.common.errors import InputError
from zipr1.evaluation.curves import read_curves, write_curves
from zipr1.evaluation.paper.rows import read_paper_rows
from zipr1.evaluation.rows import CostRow, TableRow
from zipr1.evaluation.tables import Table, read_table, write_table

ROW = TableRow(
    method="zipvl",
    p=0.9,
    token_ratio=0.5,
    accuracy=0.75,
    accuracy_low=0.5,
    accuracy_high=1.0,
    per_task={"shapes": 0.75},
    questions=4,
    difference=-0.25,
    difference_low=-0.5,
    difference_high=0.0,
)
FULL = TableRow(
    method="full",
    token_ratio=1.0,
    accuracy=1.0,
    accuracy_low=1.0,
    accuracy_high=1.0,
    per_task={"shapes": 1.0},
    questions=4,
)
COST = {"flops": 0.5, "kv_bytes": 0.5, "kv_bytes_kept": 9.0, "time": 0.5} | {
    "time_low": 0.4,
    "time_high": 0.6,
    "ratio": None,
    "learned": None,
    "pairs": {"perceive": (0.5, 0.0, 1.0)},
}


def test_a_table_comes_back(tmp_path):
    rows = [FULL, ROW, CostRow(**ROW.to_json(), **COST)]
    table = Table(rows, {"model": "m"}, {"shapes": 0.25}, ["shapes"], {"commit": "abc"})
    write_table(table, tmp_path / "table.json")
    assert read_table(tmp_path / "table.json") == table
    saved = json.loads((tmp_path / "table.json").read_text())
    assert "difference" not in saved["rows"][0] and saved["rows"][0]["p"] is None


def test_tables_of_earlier_versions(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps([FULL.to_json(), ROW.to_json()]))  # the demo's
    assert read_table(path) == Table([FULL, ROW])
    old = {"rows": [FULL.to_json()], "config": {"model": "m"}, "commit": None, "command": "zipr1"}
    path.write_text(json.dumps(old))
    table = read_table(path)
    assert table == Table([FULL], {"model": "m"}, origin={"commit": None, "command": "zipr1"})


def test_curves_of_this_and_earlier_versions(tmp_path):
    path, table = tmp_path / "curve.json", Table([FULL, ROW], {"model": "m"})
    curves = {"mean": {"ZipVL": [ROW], "Full": [FULL]}, "shapes": {"ZipVL": [ROW]}}
    write_curves(curves, path)
    assert read_curves(path, table) == curves
    point, full = ROW.to_json(), FULL.to_json()
    old = {
        "of eval": ([point], {"mean": {"m": [ROW], "Full": [FULL]}}),
        "of the demo": ({"ZipVL": [point]}, {"mean": {"ZipVL": [ROW]}}),
        "of tiny13": ({"mean": {"Full": [full]}}, {"mean": {"Full": [FULL]}}),
    }
    for value, expected in old.values():
        path.write_text(json.dumps(value))
        assert read_curves(path, table) == expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("1.5", "not a table of `zipr1 eval`"),
        ("[1.5]", "row 1: line: 1.5: input should be an object"),
        ('{"rows": [{}]}', "row 1: method: {}: field required"),
        ('{"rows": NaN}', "NaN is no number of JSON"),
        ('{"rows": [', "not JSON"),
        ("", "not JSON"),
        ("[" * 10_000, "not JSON"),
        ('{"kind": "curves", "version": 1}', "kind is curves: expected 'table'"),
        ('{"kind": "table", "version": 2, "rows": []}', "version is 2: this zipr1 reads up to 1"),
        ('{"kind": "table", "version": null, "rows": []}', "version is None"),
        ('{"rows": [], "config": 3}', "config: 3: input should be an object"),
        (json.dumps([ROW.to_json() | {"accuracy": None}]), "row 1: accuracy: None"),
        (json.dumps([ROW.to_json() | {"accuracy": 1e999}]), "Infinity is no number of JSON"),
        (json.dumps([ROW.to_json() | {"per_task": {"a": "b"}}]), "row 1: per_task.a: b"),
    ],
)
def test_a_broken_table_is_named(tmp_path, text, word):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path}: ") and word in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["1.5", '{"mean": 3}', '{"kind": "curves", "version": 1}', "[[]]"])
def test_broken_curves_are_named(tmp_path, text):
    path = tmp_path / "curve.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"curve\.json: "):
        read_curves(path, Table([]))


@pytest.mark.parametrize(
    "text", ["[]", '{"rows": [{"table": 1}]}', '{"rows": [], "failed": []}', "NaN"]
)
def test_broken_tables_of_the_paper_are_named(tmp_path, text):
    path = tmp_path / "tables.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"tables\.json: "):
        read_paper_rows(path)
