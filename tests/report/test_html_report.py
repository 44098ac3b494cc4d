"""The page of `zipr1 report`: what it holds and what it refuses."""

import base64
import html
import io
import json
import re
import shutil

import numpy as np
import pytest
import report_pages
from PIL import Image
from report_pages import (
    HOSTILE,
    QUESTIONS,
    P,
    data_of,
    disagreeing,
    page_of,
    refused,
    rows_of,
    unpacked,
    write,
)

from zipr1.data.processor import prepare, visual_grid
from zipr1.evaluation.evaluate import evaluate
from zipr1.evaluation.methods import rule_of
from zipr1.evaluation.records import packed, read_records
from zipr1.models.loading import load_vision
from zipr1.sparsity.context import sparse
from zipr1.tasks import examples_of

copy, run = report_pages.copy, report_pages.run  # fixtures


def test_records_hold_what_the_model_kept(run):
    """Bit by bit what the trace of the same batch says."""
    model, processor = load_vision("zipr1/tiny")
    for task in ("shapes", "motion"):
        examples = examples_of([task], "test", QUESTIONS)
        inputs = prepare(processor, examples)
        with sparse(model, rule_of("zipvl", P, 1.0)) as trace:
            model(**inputs)
        rows = [row for row in rows_of(run) if row["task"] == task and row["method"] == "zipvl"]
        for i, (example, row) in enumerate(zip(examples, rows, strict=True)):
            visual = inputs["mm_token_type_ids"][i].bool().numpy()
            grid = visual_grid(inputs, i, processor)
            masks = np.stack([layer[i].numpy()[visual].reshape(grid) for layer in trace.kept])
            assert (
                row["id"] == example.id and (unpacked(row) == masks).all() and 0 < masks.mean() < 1
            )
    assert all(
        row["kept"] is row["grid"] is None for row in rows_of(run) if row["method"] == "full"
    )
    assert (
        packed(np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1], bool))
        == base64.b64encode(bytes([0x80, 0x40])).decode()
    )


def test_padding_does_not_shift_the_kept_tokens():
    """Prompts of unequal length are padded on the left: each row has its own visual tokens."""
    model, processor = load_vision("zipr1/tiny")
    examples = examples_of(["shapes"], "test", 3)
    assert prepare(processor, examples)["attention_mask"].sum(-1).unique().numel() > 1
    together = evaluate(model, processor, examples, rule_of("zipvl", P, 1.0), "zipvl")
    apart = [
        evaluate(model, processor, [one], rule_of("zipvl", P, 1.0), "zipvl")[0] for one in examples
    ]
    assert [(one.grid, one.kept) for one in together] == [(one.grid, one.kept) for one in apart]


def test_the_page_holds_tables_curves_and_answers(run, capsys):
    page = page_of(run)
    assert re.search(
        r"report\.html: 0\.\d MB, 1 run, 12 of 12 questions to browse", capsys.readouterr().out
    )
    data, rows = data_of(page), rows_of(run)
    full, zipvl = (
        {"name": "full", "full": None, "shorter": False},
        {"name": "zipvl", "full": 0, "shorter": False},
    )
    assert data["methods"] == [full, zipvl]
    shown = {question["id"]: question for question in data["questions"]}
    assert len(shown) == 2 * QUESTIONS
    for row in rows:
        answer = shown[row["id"]]["answers"]["0" if row["method"] == "full" else "1"]
        assert (answer["answer"], answer["right"], answer["kept"]) == (
            row["answer"],
            row["right"],
            row["kept"],
        )
        assert answer["differs"] == (row["method"] == "zipvl" and row["id"] in disagreeing(rows))
    for example in examples_of(["shapes", "motion"], "test", QUESTIONS):
        question = shown[example.id]
        picture = Image.open(
            io.BytesIO(
                base64.b64decode(question["picture"].removeprefix("data:image/webp;base64,"))
            )
        )
        first = np.asarray(example.image or example.frames[2], float)
        left = (
            0 if example.image else first.shape[1]
        )  # of a clip's sheet the second tile: the third frame
        drawn = np.asarray(picture.convert("RGB"), float)[
            : first.shape[0], left : left + first.shape[1]
        ]
        assert np.abs(drawn - first).mean() < 6 and question["question"] == example.question
    table = json.loads((run / "table.json").read_text())
    for row in table["rows"]:
        assert f"<b>{100 * row['accuracy']:.1f}</b>" in page
    assert table["commit"] in page and page.count("<svg") == 1 and ">token ratio, %" in page


def test_nothing_is_fetched(run):
    names = {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }  # of XML: no browser opens them
    page = page_of(run)
    assert set(re.findall(r"\w+://[^\s\"'<>)]+", page)) <= names
    assert not re.search(r"@import|<link|<script[^>]+src|<iframe", page)
    assert "default-src 'none'" in page


def test_hostile_text_stays_text(copy):
    clean = page_of(copy)
    write(copy, [row | {"answer": HOSTILE} for row in rows_of(copy)])
    table = json.loads((copy / "table.json").read_text())
    table["rows"][0]["method"] = table["command"] = table["config"]["model"] = HOSTILE
    (copy / "table.json").write_text(json.dumps(table))
    page = page_of(copy)
    for tag in ("<script", "</script", "<!--", "<img"):
        assert page.count(tag) == clean.count(tag), tag
    assert {one["answer"] for q in data_of(page)["questions"] for one in q["answers"].values()} == {
        HOSTILE
    }
    assert html.escape(HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page


def test_records_of_earlier_versions(copy):
    write(
        copy,
        [
            {name: value for name, value in row.items() if name not in ("grid", "kept")}
            for row in rows_of(copy)
        ],
    )
    assert all(record.kept is None for record in read_records(copy / "records.jsonl"))
    questions = data_of(page_of(copy))["questions"]
    assert len(questions) == 2 * QUESTIONS and all(question["picture"] for question in questions)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"task": "golf", "id": "golf/test/0/0"}, "not a question of the embedded tasks"),
        ({"id": "my own"}, "not a question of the embedded tasks"),
        ({"expected": "of another version"}, "renders another scene today"),
        ({"id": "shapes/test/0/999"}, "renders another scene today"),
    ],
)
def test_what_cannot_be_drawn_again_says_so(copy, change, word):
    first, *others = [row for row in rows_of(copy) if row["method"] == "full"]
    write(copy, [first | change, *others])
    without = [
        question for question in data_of(page_of(copy))["questions"] if "picture" not in question
    ]
    assert (
        len(without) == 1
        and word in without[0]["missing"]
        and without[0]["answers"]["0"]["answer"] == first["answer"]
    )


def test_disagreements_come_first(copy):
    rows = [row | {"answer": "same"} for row in rows_of(copy)]
    odd = {"shapes/test/4/", "motion/test/5/"}
    for row in rows:
        if row["method"] == "zipvl" and any(row["id"].startswith(start) for start in odd):
            row["answer"] = "other"
        if row["method"] == "zipvl" and row["id"].startswith("shapes/test/2/"):
            row["answer"] = " Same."  # the metric takes it for the same
    write(copy, rows)
    page = page_of(copy, "--per_task", "2")
    starts = [
        re.match(r"\w+/test/\d+/", question["id"])[0] for question in data_of(page)["questions"]
    ]
    assert starts == ["shapes/test/4/", "motion/test/5/", "shapes/test/0/", "motion/test/0/"]
    assert "4 of 12 questions are here" in page


def test_several_runs_and_every_kind_of_folder(copy, tmp_path):
    """A demo, a training and a suite beside an evaluation without Full of its own."""
    demo, suite, training = tmp_path / "demo", tmp_path / "suite", tmp_path / "train"
    (demo / "paper").mkdir(parents=True)
    suite.mkdir()
    rows, table = rows_of(copy), json.loads((copy / "table.json").read_text())
    for kind, method in (("full", "full"), ("exact", "zipvl")):
        lines = [json.dumps(row) + "\n" for row in rows if row["method"] == method]
        (demo / f"records-{kind}.jsonl").write_text("".join(lines))
    write(copy, [row for row in rows if row["method"] == "zipvl"])
    (demo / "table.json").write_text(json.dumps(table["rows"]))
    curves = json.loads((copy / "curve.json").read_text())["curves"]["mean"]
    (demo / "curve.json").write_text(json.dumps(curves))  # a file from before there were kinds
    (demo / "paper" / "metrics.jsonl").write_text(
        '{"step": 0, "probe/accuracy": 0.5}\n{"step": 1, "rewards/accuracy": 1}\n'
    )
    said = [
        {"step": step, "id": f"row {step}", "completion": "<b>42</b>", "token_ratio": 0.25}
        for step in (1, 2)
    ]
    (demo / "paper" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    shutil.copytree(demo / "paper", training)
    (training / "run.json").write_text(
        json.dumps({"config": {}} | {k: table[k] for k in ("versions", "commit", "device")})
    )
    cell = {"score": [58.2], "low": [57.0], "high": [59.0]}
    cell |= {"difference": [-0.3], "difference_low": [-1.0], "difference_high": [0.4]}
    entries = [
        {
            "table": 2,
            "method": "ZipVL",
            "token_ratio": 0.71,
            "benchmarks": {"MLVU-dev": cell, "VideoMME": None},
        }
    ]
    (suite / "tables.json").write_text(
        json.dumps({"rows": entries, "failed": {"ZipVL, VideoMME": "a <reason>"}})
    )
    page = page_of(copy, demo, suite, training)
    methods = data_of(page)["methods"]
    assert methods == [
        {"name": f"{copy}: zipvl", "full": 1, "shorter": False},
        {"name": f"{demo}: Full", "full": None, "shorter": False},
        {"name": f"{demo}: ZipR1 (exact)", "full": 1, "shorter": False},
    ]
    assert page.count("<svg") == 4  # two curves, two trainings
    assert (
        "58.2 <small>(57.0 to 59.0) [-0.3, -1.0 to +0.4]</small>" in page
        and "71.0 <small>(1 of 2)</small>" in page
    )
    assert (
        page.count("<td>row 2</td><td>&lt;b&gt;42&lt;/b&gt;</td><td>0.25</td>") == 2
        and "row 1" not in page
    )
    assert "<td>failed</td>" in page and "a &lt;reason&gt;" in page


def test_unknown_folders_are_refused(capsys, tmp_path, copy):
    (tmp_path / "empty").mkdir()
    assert "empty: nothing to report in it" in (said := refused(capsys, copy, tmp_path / "empty"))
    assert "records*.jsonl" in said and "metrics.jsonl" in said
    assert "none: no such folder" in refused(capsys, tmp_path / "none")
    assert "runs" in refused(capsys)
    assert "per_task=0" in refused(capsys, copy, "--per_task", "0")


def test_a_run_that_was_killed_while_writing_is_shown_without_the_torn_lines(copy, capsys):
    whole = page_of(copy)
    (copy / "paper").mkdir()
    (copy / "paper" / "metrics.jsonl").write_text('{"step": 1, "rewards/accuracy": 1}\n{"step": 2')
    (copy / "paper" / "samples.jsonl").write_text('{"step": 1, "completion": "seven"}\n{"st')
    with (copy / "records.jsonl").open("a") as file:
        file.write('{"task": "shapes"')
    capsys.readouterr()
    page = page_of(copy)
    out = capsys.readouterr().out
    for place in (f"records.jsonl:{4 * QUESTIONS + 1}:", "metrics.jsonl:2:", "samples.jsonl:2:"):
        assert f"not shown: {copy}" in out and place in out and place in page
    assert data_of(page) == data_of(whole) and "seven" in page
    assert page.count("<svg") == whole.count("<svg") + 1


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("curve.json", "1.5"),
        ("curve.json", '{"a": 3}'),
        ("table.json", "{"),
        ("table.json", "null"),
        ("table.json", '{"rows": [{"method": "full"}]}'),
        ("table.json", '{"kind": "table", "version": 99, "rows": []}'),
        ("tables.json", "[]"),
        ("run.json", "not JSON"),
        ("config.json", "[" * 100_000),
        ("records-more.jsonl", "\x00\n"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_shown(copy, capsys, file, text):
    (copy / file).write_text(text)
    page = page_of(copy)
    assert f"not shown: {copy / file}" in capsys.readouterr().out and str(copy / file) in page
    assert len(data_of(page)["questions"]) == 2 * QUESTIONS


def test_a_record_without_its_answer_is_named(copy, capsys):
    first, *others = rows_of(copy)
    write(copy, [first | {"answer": None}, *others])
    page = page_of(copy)
    out = capsys.readouterr().out
    assert "records.jsonl:1: not a record" in out and "answer: None" in out
    assert sum(len(question["answers"]) for question in data_of(page)["questions"]) == len(others)


def test_a_folder_of_which_nothing_can_be_read_is_refused(capsys, tmp_path):
    (tmp_path / "curve.json").write_text("1.5")
    assert f"{tmp_path}/curve.json: holds no curves" in refused(capsys, tmp_path)


def test_a_file_of_this_version_says_its_kind(run):
    """So that a reader knows it before it looks inside."""
    table, curve = (json.loads((run / name).read_text()) for name in ("table.json", "curve.json"))
    assert (table["kind"], table["version"], curve["kind"]) == ("table", 1, "curves")
