"""Files that a killed process must not leave half written, and the errors that name them."""

import json
import os

import pytest

from zipr1.common.errors import RunError
from zipr1.common.files import append, cut, replace


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "run.json"
    replace(path, "old")
    inode = path.stat().st_ino
    replace(path, "new, größer")
    assert path.read_text(encoding="utf-8") == "new, größer"
    assert path.stat().st_ino != inode and list(tmp_path.iterdir()) == [path]


def test_rows_after_a_step_and_a_torn_row_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append(path, [{"step": step} for step in (1, 2, 3)])
    with path.open("a") as file:
        file.write('{"step": 4, "loss": 0.')
    cut(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    cut(path, 0)
    assert path.read_text() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"metrics\.jsonl: could not be written .*No space"):
        append(path, [{"step": 1}])


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(RunError, match=r"none/run\.json: could not be written"):
        replace(tmp_path / "none" / "run.json", "text")
