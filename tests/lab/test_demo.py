"""The demo from end to end, cut to seconds."""

import json

import pytest

from zipr1.lab.config import DemoConfig
from zipr1.lab.demo import demo


@pytest.mark.slow
def test_demo_leaves_everything(tmp_path):
    rows, found = demo(
        DemoConfig(
            output_dir=str(tmp_path), questions=4, curve_questions=2, curve="0.9,0.975", max_steps=3
        )
    )
    assert [(row.method, row.preset) for row in rows] == [
        ("Full", None), ("ZipVL", None), ("ZipR1", "paper"), ("ZipR1", "exact"),
        ("TopK", None), ("Downsampled", None),
    ]  # fmt: skip
    exact, topk, shrunk = rows[3:]
    assert topk.token_ratio == pytest.approx(exact.token_ratio, abs=0.01)  # rounded up a layer
    assert topk.token_ratio < shrunk.token_ratio < 1  # the text stays whole
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["kind"] == "table" and table["rows"] == [row.to_json() for row in rows]
    assert "ZipR1 (exact) answers from" in found and "with TopK at that ratio" in found
    curves = json.loads((tmp_path / "curve.json").read_text())["curves"]["mean"]
    assert {row["questions"] for rows in curves.values() for row in rows} == {
        2 * len(rows[0].per_task)
    }  # Full's too
    for name in (
        "table.md",
        "curve.png",
        "training.png",
        "kept-shapes-after.png",
        "kept-motion-after.png",
        "config.json",
    ):
        assert (tmp_path / name).stat().st_size > 200, name
    for preset in ("paper", "exact"):
        assert (tmp_path / preset / "final" / "model.safetensors").is_file()
        assert (tmp_path / preset / "metrics.jsonl").read_text().count("\n") == 4
    assert json.loads((tmp_path / "config.json").read_text())["commit"]
