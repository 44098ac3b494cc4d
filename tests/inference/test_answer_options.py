"""`zipr1 answer --compare`, `--rule`, `--ratio`, `--dtype` and `--max_pixels`."""

import json

import pytest
from command_line import run

from zipr1.tasks import TASKS

QUESTION = "What colour is the star?"
RULE = "class Text:\n    def keep(self, scores):\n        return scores.valid & ~scores.visual\n"


@pytest.fixture
def image(tmp_path):
    TASKS["shapes"].example("test", 0).image.save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def asked(capsys, *arguments: str) -> dict:
    status, out, err = run(capsys, "answer", *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def test_both_are_timed_and_shown(capsys, image):
    found = asked(capsys, image, QUESTION, "--p", "0.9", "--compare")
    full = found["full"]
    for row in (found, full):
        assert row["prefill_ms"] > 0 and row["ms_per_token"] > 0
        assert row["peak_bytes"] is None or row["peak_bytes"] > 0
    assert full["kv_bytes_kept"] == found["kv_bytes_kept"] + found["kv_bytes_saved"]
    status, out, _ = run(capsys, "answer", image, QUESTION, "--p", "0.9", "--compare")
    assert status == 0
    assert "|  | answer | tokens | prefill | per token | peak memory | KV cache |" in out
    assert f"| sparse | {found['answer']} | {found['token_ratio']:.1%} | " in out
    assert f"| dense | {full['answer']} | 100.0% | " in out


def test_an_answer_of_one_token_has_no_time_per_token(capsys, image):
    found = asked(capsys, image, QUESTION, "--max_new_tokens", "1", "--compare")
    assert found["ms_per_token"] is None and found["full"]["prefill_ms"] > 0


def test_visual_and_text_tokens_are_counted_apart(capsys, image, tmp_path):
    (tmp_path / "text_rule.py").write_text(RULE)
    rule = f"{tmp_path}/text_rule.py:Text"
    found = asked(capsys, image, QUESTION, "--rule", rule)
    assert found["visual_tokens"] == 64 and found["visual_token_ratio"] == 0
    assert found["text_token_ratio"] == 1
    assert found["token_ratio"] == pytest.approx(1 - 64 / found["tokens"])
    status, out, _ = run(capsys, "answer", image, QUESTION, "--p", "0.9")
    assert status == 0 and "visual tokens  " in out and " of 64\n" in out
    _, out, _ = run(capsys, "answer", "What is one and one?")
    assert "visual tokens" not in out and "text tokens    " in out


@pytest.mark.parametrize("rule", ["topk", "random", "recent"])
def test_other_rules_keep_their_ratio(capsys, image, rule):
    found = asked(capsys, image, QUESTION, "--rule", rule, "--ratio", "0.5")
    assert set(found["kept_tokens_per_layer"]) == {-(-found["tokens"] // 2)}
    assert (found["rule"], found["p"], found["ratio"]) == (rule, None, 0.5)
    default = asked(capsys, image, QUESTION, "--rule", rule)
    assert default["ratio"] == 0.25


def test_types_and_pixels(capsys, image):
    half = asked(capsys, image, QUESTION, "--dtype", "bfloat16")
    whole = asked(capsys, image, QUESTION, "--dtype", "float32")
    each = [row["kv_bytes_kept"] / sum(row["kept_tokens_per_layer"]) for row in (half, whole)]
    assert each[1] == 2 * each[0]
    assert asked(capsys, image, QUESTION, "--max_pixels", "4096")["visual_tokens"] == 16


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--rule", "pyramid"), "rule=pyramid: expected one of zipvl, topk, random, recent, fastv"),
        (("--rule", "topk", "--p", "0.9"), "p=0.9: an option of the rule zipvl"),
        (("--ratio", "0.5"), "ratio=0.5: zipvl keeps what p says; give --rule topk"),
        (("--rule", "topk", "--ratio", "0"), "ratio=0.0: must lie in (0, 1]"),
        (("--rule", "none.py:Rule"), "no such file"),
        (("--max_pixels", "0"), "max_pixels=0"),
        (("--dtype", "int8"), "--dtype: int8"),
    ],
    ids=str,
)
def test_mistakes_are_named(capsys, image, flags, word):
    status, out, err = run(capsys, "answer", image, QUESTION, *flags)
    assert status == 2 and word in err and out == "" and "Traceback" not in err
