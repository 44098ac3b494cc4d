"""Users' own selection rules by name: in `zipr1 eval`, `zipr1 bench` and lmms-eval's model."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from command_line import run
from lmms_requests import ask, image

from zipr1.common.errors import InputError
from zipr1.common.imports import executed
from zipr1.evaluation.records import read_records
from zipr1.tasks.shapes import Shapes

PAGE = Path(__file__).parents[2] / "docs/guides/own_rules.md"
RULES = """
import torch
from dataclasses import dataclass
from zipr1 import DenseFirst, TopK, TopP


@dataclass(frozen=True)
class Same:
    p: float

    def keep(self, scores):
        return TopP(self.p).keep(scores)


@dataclass(frozen=True)
class Half:
    def keep(self, scores):
        return TopK(0.5).keep(scores)


@dataclass(frozen=True)
class Broken:
    how: str = "padding"

    def keep(self, scores):
        return {
            "padding": torch.ones_like(scores.valid),
            "nothing": torch.zeros_like(scores.valid),
            "floats": scores.normalised,
            "shape": scores.valid[:, 1:],
        }[self.how]


class Within:
    def __init__(self, p, ratio):
        self.rule = TopK(min(p, ratio))

    def keep(self, scores):
        return self.rule.keep(scores)


def First():
    return DenseFirst(TopK(0.25), layers=1)


class Fails:
    def keep(self, scores):
        return {}["no such key"]


finished, nothing, floats, shape = Half(), Broken("nothing"), Broken("floats"), Broken("shape")
number = 3
class Needs:
    def __init__(self, size): ...
class NoKeep: ...
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "my_rules.py").write_text(RULES)
    return f"{tmp_path}/my_rules.py"


def evaluate(capsys, folder, *methods: str, more=()) -> tuple[int, str, str]:
    flags = ("--tasks", "shapes,chart", "--questions", "6", "--threads", "1", "--batch_size", "12")
    names = ",".join(methods)
    return run(
        capsys, "eval", "zipr1/tiny", "--methods", names, *flags, "--output_dir", str(folder), *more
    )


def test_an_own_rule_stands_beside_the_others(capsys, tmp_path, mine):
    out = tmp_path / "out"
    names = ("full", "zipvl", f"{mine}:Same", "topk", f"{mine}:Half", f"{mine}:finished")
    status, _, err = evaluate(capsys, out, *names, more=("--p", "0.8", "--ratio", "0.5"))
    assert status == 0, err
    records = {name: [] for name in names}
    for record in read_records(out / "records.jsonl"):
        records[record.method].append((record.answer, record.p, record.kept, record.token_ratio))
    assert records[names[2]] == records["zipvl"]
    assert records[names[4]] == records[names[5]] == records["topk"]
    rows = {row["method"]: row for row in json.loads((out / "table.json").read_text())["rows"]}
    assert rows[names[2]]["p"] == 0.8 and "difference" in rows[names[4]]


def ratios(capsys, folder, *methods: str, more=()) -> dict[str, float]:
    """Method -> token ratio, of two questions, in a new process."""
    executed.cache_clear()
    few = ("--tasks", "shapes", "--questions", "2", "--json")
    status, out, err = evaluate(capsys, folder, *methods, more=(*few, *more))
    assert status == 0 and "replaces" not in err, err
    return {row["method"]: row["token_ratio"] for row in json.loads(out)}


def test_an_own_rule_is_evaluated_anew_under_another_p_or_ratio(capsys, tmp_path, mine):
    """Wherever the rule keeps them."""
    name = f"{mine}:Within"
    for p, ratio in ((0.9, 0.25), (0.9, 0.5), (0.4, 0.5)):
        more = ("--p", str(p), "--ratio", str(ratio))
        found = ratios(capsys, tmp_path / "out", name, "topk", more=more)
        other = ratios(capsys, tmp_path / "topk", "topk", more=("--ratio", str(min(p, ratio))))
        assert found[name] == other["topk"] and (found["topk"] == found[name]) == (p > ratio)


def test_another_rule_or_other_code_leaves_the_other_answers_alone(capsys, tmp_path, mine):
    out, name = tmp_path / "out", f"{mine}:First"
    before = ratios(capsys, out, "full", "zipvl", name)
    times = {path: path.stat().st_mtime_ns for path in (out / "answers").iterdir()}
    assert len(times) == 3
    Path(mine).write_text(RULES.replace("TopK(0.25), layers", "TopK(0.9), layers"))
    after = ratios(capsys, out, "full", name, f"{mine}:Half")
    assert after[name] > before[name]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len([*(out / "answers").iterdir()]) == 5


def test_the_code_of_a_rule_that_another_module_defines(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "rules_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("from .best import Best")
    code = "from zipr1 import TopK\nclass Best:\n    keep = lambda self, scores: TopK(0.25).keep(scores)"
    (package / "best.py").write_text(code)
    before = ratios(capsys, tmp_path / "out", "rules_of_mine:Best")
    (package / "best.py").write_text(code.replace("0.25", "0.9 "))
    for module in ("rules_of_mine", "rules_of_mine.best"):
        sys.modules.pop(module)
    os.utime(package / "best.py", (1, 1))  # so that Python compiles it again
    after = ratios(capsys, tmp_path / "out", "rules_of_mine:Best")
    assert after["rules_of_mine:Best"] > before["rules_of_mine:Best"]


def test_rules_in_files_of_similar_names(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    rule = "from zipr1 import TopK\nclass R:\n    keep = lambda self, scores: TopK({}).keep(scores)"
    files = {"a/m.py": 0.25, "a_m.py": 0.9, "m.py": 0.5}
    for file, ratio in files.items():
        Path(file).write_text(rule.format(ratio))
    found = ratios(capsys, tmp_path / "out", *(f"{file}:R" for file in files))
    assert len(set(found.values())) == 3


def test_a_rule_that_fails_leaves_the_table_of_the_methods_before_it(capsys, tmp_path, mine):
    out = tmp_path / "out"
    with pytest.raises(KeyError, match="no such key"):
        evaluate(capsys, out, "full", f"{mine}:Fails", "zipvl")
    assert f"are in {out}/" in capsys.readouterr().err
    assert {one.method for one in read_records(out / "records.jsonl")} == {"full"}
    assert [row["method"] for row in json.loads((out / "table.json").read_text())["rows"]] == [
        "full"
    ]
    status, _, err = evaluate(capsys, out, "full", f"{mine}:Broken", more=("--curve", "0.5"))
    assert status == 2 and "keeps padding" in err and "| full |" in (out / "table.md").read_text()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        (":Missing", "has no 'Missing'"),
        (":number", "is no class, function or object with a method keep"),
        (":Needs", "needs size; give defaults"),
        (":NoKeep", "NoKeep has no method keep(scores)"),
        (":Broken", "layer 0: keeps padding"),
        (":nothing", "layer 0: drops the last token"),
        (":floats", "layer 0: keep() gave torch.float32, not a bool tensor"),
        (":shape", "layer 0: keep() gave the shape"),
    ],
)
def test_a_rule_that_is_none_is_named(capsys, tmp_path, mine, name, word):
    status, _, err = evaluate(capsys, tmp_path / "out", f"{mine}{name}")
    assert status == 2 and word in err and f"my_rules.py{name}" in err and "Traceback" not in err


def test_a_missing_file_and_an_unknown_word(capsys, tmp_path):
    status, _, err = evaluate(capsys, tmp_path / "out", "none.py:Rule")
    assert status == 2 and "rule 'none.py:Rule': no such file: " in err
    status, _, err = evaluate(capsys, tmp_path / "out", "pyramid")
    assert status == 2 and "or your own rule as package.module:Rule or file.py:Rule" in err


def test_the_rule_of_the_readme_works(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (PAGE.parents[2] / "README.md").read_text()
    Path("mine.py").write_text(re.search(r"^class TextAndHalf.*?(?=^```)", readme, re.S | re.M)[0])
    status, out, err = evaluate(capsys, tmp_path / "out", "full,zipvl,mine.py:TextAndHalf")
    assert status == 0 and "| mine.py:TextAndHalf |" in out, err


@pytest.mark.slow  # a layer of 3B
def test_bench_times_an_own_rule_at_its_measured_ratio(capsys, tmp_path, mine):
    flags = (
        "--tokens",
        "64",
        "--ratios",
        "0.25",
        "--phases",
        "attention,prefill",
        "--repeats",
        "1",
    )
    rules = f"topk,{mine}:Half"
    status, out, _ = run(
        capsys, "bench", *flags, "--rules", rules, "--output_dir", str(tmp_path), "--json"
    )
    rows = [row for row in json.loads(out) if row["rule"].endswith(":Half")]
    assert status == 0 and {row["phase"] for row in rows} == {"attention", "prefill"}
    bounds = {row["scope"]: row["bound"] for row in rows if row["phase"] == "attention"}
    assert bounds == {"attention": 4, "keys": 2}  # half of the tokens, whatever --ratios says
    status, _, err = run(capsys, "bench", *flags, "--rules", f"{mine}:Missing")
    assert status == 2 and "has no 'Missing'" in err


def test_the_page_on_own_rules_works(capsys, tmp_path, monkeypatch):
    """Its rule, by its own command, with the number of questions made small."""
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    Path("mine.py").write_text(code.partition("model, processor")[0])
    command = re.search(r"^zipr1 (eval .*)", page, re.MULTILINE)[1].split()
    more = ("--tasks", "shapes,motion", "--questions", "1", "--threads", "1")
    status, out, err = run(capsys, *command, *more)
    assert status == 0 and "| mine.py:VisualTopK |" in out, err
    (row,) = [
        row
        for row in json.loads(Path("runs/eval/table.json").read_text())["rows"]
        if row["method"] == "mine.py:VisualTopK"
    ]
    assert 0.25 < row["token_ratio"] < 1
    images = [one for one in read_records(Path("runs/eval/records.jsonl")) if one.task == "shapes"]
    ratio = (images[-1].tokens - 64 + 16) / images[-1].tokens
    assert images[-1].token_ratio == pytest.approx(ratio)


def test_lmms_eval_takes_an_own_rule(tmp_path, mine):
    lmms = pytest.importorskip("zipr1.evaluation.lmms_model")
    picture = tmp_path / "picture.png"
    Shapes().example("test", 0).image.save(picture)
    answers = []
    for method in (f"{mine}:Same", "zipvl"):
        model = lmms.ZipR1(method=method, p=0.8, device="cpu", answers=str(tmp_path / "answers"))
        answers.append(ask(model, image(str(picture))))
        (tmp_path / "answers").unlink()
    assert answers[0] == answers[1] and 0 < answers[0][0][1] < 1
    with pytest.raises(InputError, match="has no 'Missing'"):
        lmms.ZipR1(method=f"{mine}:Missing", device="cpu")
