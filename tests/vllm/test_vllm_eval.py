"""`zipr1 eval --engine vllm`: the records of the transformers engine."""

import json

import pytest
import vllm_engine as v  # noqa: F401 - sets the environment of the engine
from command_line import run

pytestmark = pytest.mark.vllm

TASKS = ("--tasks", "shapes,motion", "--questions", "4", "--p", "0.8", "--ratio", "0.4")


def records(folder) -> dict:
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return {(row["id"], row["method"]): row for row in rows}


@pytest.mark.parametrize("scope", ["attention", "layer"])
def test_both_engines_write_the_same_records(capsys, tmp_path, scope):
    for engine in ("transformers", "vllm"):
        out = ("--output_dir", str(tmp_path / engine), "--scope", scope, "--engine", engine)
        status, _, error = run(
            capsys, "eval", "zipr1/tiny", "--methods", "full,zipvl,topk", *TASKS, *out
        )
        assert status == 0, error
    one, other = (records(tmp_path / engine) for engine in ("transformers", "vllm"))
    assert len(one) == 24 and one == other
    assert any(row["kept"] for row in one.values()) and any(
        row["token_ratio"] < 1 for row in one.values()
    )
