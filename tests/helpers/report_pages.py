"""A real evaluation and its page, to be looked into."""

import base64
import json
import re
import shutil

import numpy as np
import pytest

from zipr1.cli.main import main

P, QUESTIONS = 0.7, 6
HOSTILE = (
    "</script><script>document.title = 'owned'</script><!--<script>"
    "<img src=x onerror=\"document.title = 'owned'\">"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "eval"
    flags = [
        "--tasks",
        "shapes,motion",
        "--questions",
        str(QUESTIONS),
        "--methods",
        "full,zipvl",
        "--p",
        str(P),
    ]
    main(
        [
            "eval",
            "zipr1/tiny",
            *flags,
            "--curve",
            "0.7,0.9",
            "--threads",
            "1",
            "--output_dir",
            str(folder),
        ]
    )
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """The run again, to be changed."""
    return shutil.copytree(run, tmp_path / "copy")


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").open()]


def write(folder, rows: list[dict]) -> None:
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def page_of(*arguments) -> str:
    main(["report", *map(str, arguments), "-o", str(arguments[0] / "out" / "report.html")])
    return (arguments[0] / "out" / "report.html").read_text()


def data_of(page: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    )


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, arguments)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    return said


def unpacked(row: dict) -> np.ndarray:
    """(layers, T, H, W) of a record."""
    bits = [
        np.unpackbits(np.frombuffer(base64.b64decode(layer), np.uint8)) for layer in row["kept"]
    ]
    return np.stack([layer[: np.prod(row["grid"])].reshape(row["grid"]) for layer in bits])


def disagreeing(rows: list[dict]) -> set[str]:
    full = {row["id"]: row["answer"] for row in rows if row["method"] == "full"}
    return {row["id"] for row in rows if row["answer"] != full[row["id"]]}
