"""The suite of embedded tasks: rows at one ratio, their cost, curves, and resumption."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zipr1.cli.main import main
from zipr1.data.processor import prepare
from zipr1.evaluation.input_baselines import FewerFrames, nearest
from zipr1.evaluation.records import Record, read_records
from zipr1.evaluation.rows import CostRow
from zipr1.evaluation.statistics import interval, mean_of, pairs_of, table_row, unlearned
from zipr1.evaluation.tables import Table
from zipr1.lab.tiny13_tables import pair_table, write_suite_table
from zipr1.models.families import decoder
from zipr1.models.flops import Shape, layer_flops
from zipr1.models.loading import load_vision
from zipr1.models.location import EMBEDDED
from zipr1.models.saving import save
from zipr1.tasks import examples_of

QUESTIONS = 4
ENGINE = ["TopK", "FastV", "Recent", "Random"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A copy of the embedded model in place of a trained one."""
    folder = tmp_path_factory.mktemp("model") / "final"
    save(*load_vision("zipr1/tiny"), folder)
    return folder


def command(folder, trained, *more: str) -> list[str]:
    flags = [
        "--tasks",
        "shapes,motion",
        "--questions",
        str(QUESTIONS),
        "--curve_questions",
        "2",
        "--curve",
        "0.6",
    ]
    flags += [
        "--trained",
        f"exact={trained}",
        "--p",
        "0.8",
        "--threads",
        "1",
        "--output_dir",
        str(folder),
    ]
    return ["eval", "zipr1/tiny", "--suite", "tiny13", *flags, *more]


@pytest.fixture(scope="module")
def suite(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("suite")
    main(command(folder, trained))
    return folder


@pytest.fixture
def table(suite) -> dict[str, dict]:
    return {row["method"]: row for row in json.loads((suite / "table.json").read_text())["rows"]}


@pytest.fixture
def records(suite) -> dict[str, list]:
    found: dict[str, list] = {}
    for record in read_records(suite / "records.jsonl"):
        found.setdefault(record.method, []).append(record)
    return found


def stamp(file: Path) -> list[int]:
    return [file.stat().st_size, file.stat().st_mtime_ns]


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*arguments])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    return said


def test_the_baselines_run_at_the_ratio_that_was_measured(table, records):
    assert list(table) == ["Full", "ZipVL", "ZipR1 (exact)", *ENGINE, "Downsample", "Fewer frames"]
    kept = table["ZipR1 (exact)"]["token_ratio"]
    assert 0 < kept < 1 and kept == table["ZipVL"]["token_ratio"]
    for name in (*ENGINE, "Downsample", "Fewer frames"):
        assert table[name]["ratio"] == round(kept, 3) and table[name]["p"] is None
    for name in ENGINE:  # rounded up to a token of a hundred
        assert kept - 0.001 <= table[name]["token_ratio"] < kept + 0.011
    ids = [record.id for record in records["Full"]]
    assert all(
        [record.id for record in records[name]] == ids for name in ("ZipVL", *ENGINE, "Downsample")
    )
    assert (
        table["Full"]["token_ratio"] == 1
        and "difference" not in table["Full"]
        and "difference" in table["TopK"]
    )


def test_a_smaller_picture_is_counted_against_fulls_prompt(table, records):
    _, processor = load_vision("zipr1/tiny")
    shapes, motion = (examples_of([task], "test", 1)[0] for task in ("shapes", "motion"))
    # 8 x 8 visual tokens of a picture, 4 pairs of 6 x 6 of a clip
    for example, pairs, side in ((shapes, 1, 8), (motion, 4, 6)):
        rows, columns = nearest(side, side, table["Downsample"]["ratio"])
        full = prepare(processor, [example])["input_ids"].shape[1]
        (record,) = (record for record in records["Downsample"] if record.id == example.id)
        assert record.tokens == full
        assert record.token_ratio == pytest.approx(
            (full - pairs * (side * side - rows * columns)) / full
        )
        assert abs(rows * columns / side / side - table["Downsample"]["ratio"]) < 0.1


def test_nearest_by_hand():
    assert (
        nearest(8, 8, 0.25) == (4, 4)
        and nearest(8, 8, 0.3) == (4, 5)
        and nearest(4, 16, 0.25) == (2, 8)
    )
    assert nearest(8, 8, 1.0) == (8, 8) and nearest(8, 8, 0.001) == (1, 1)


def test_fewer_frames_are_evenly_spaced_pairs_of_clips_alone(table, records):
    clip = examples_of(["motion"], "test", 1)[0]
    numbered = replace(clip, frames=tuple(Image.new("RGB", (96, 96), (i, i, i)) for i in range(8)))
    for ratio, expected in (
        (0.3, [0, 7]),
        (0.5, [0, 2, 5, 7]),
        (0.01, [0, 7]),
        (1.0, list(range(8))),
    ):
        less = FewerFrames(ratio).shorten(numbered, (4, 6, 6), 16)
        assert [frame.getpixel((0, 0))[0] for frame in less.frames] == expected
        assert less.fps == pytest.approx(clip.fps * (len(expected) - 1) / 7)
    row, few = table["Fewer frames"], records["Fewer frames"]
    assert list(row["per_task"]) == ["motion"] and {record.task for record in few} == {"motion"}
    assert row["accuracy"] == row["per_task"]["motion"]
    assert row["difference"] == pytest.approx(row["accuracy"] - table["Full"]["per_task"]["motion"])
    frames = 2 * max(1, round(row["ratio"] * 4))
    assert all(
        record.token_ratio == pytest.approx(1 - (8 - frames) * 18 / record.tokens) for record in few
    )


def cost_row(method: str, records: list[Record], learned: set[str] = frozenset()) -> CostRow:
    costs = ("flops", "kv_bytes", "kv_bytes_kept", "time", "time_low", "time_high")
    row = table_row(method, records).to_json() | dict.fromkeys(costs, 1.0)
    more = {"learned": mean_of(records, learned), "pairs": pairs_of(records)}
    return CostRow(**row, ratio=None, **more)


def test_pairs_by_hand():
    def rows(task: str, rights: list[bool]) -> list[Record]:
        return [
            Record(task, f"{task}/test/{i}/0", "Full", None, "", "", right, 1.0, (1.0,), 9)
            for i, right in enumerate(rights)
        ]

    records = rows("perceive", [True, True, True, False, False, True, True, True, True]) + rows(
        "chart", [True, True]
    )
    records += rows("tempo", [True])
    found = pairs_of(records)
    assert list(found) == [
        "perceive"
    ]  # the last of perceive has no second, tempo's one neither; chart asks in no pairs
    share, low, high = found["perceive"]
    assert share == 0.5 and 0 <= low < 0.5 < high <= 1
    rows = [cost_row("Full", records), cost_row("Fewer frames", records[9:11])]
    table = pair_table(rows)
    assert "| Full | 50.0 (0.0 to 100.0) |" in table and "| Fewer frames | - |" in table
    assert pair_table([cost_row("Full", records[9:11])]) == ""


def test_a_pair_is_drawn_together():
    """Two questions of one scene correct, two of another incorrect: a draw is 0, a half or 1, never
    a quarter."""
    rows = {"perceive": np.array([1.0, 1, 0, 0]), "chart": np.array([1.0, 1, 0, 0])}
    assert interval({"perceive": rows["perceive"]}) == (0.5, 0.0, 1.0)
    one = [
        np.array([1.0, 0.0] * 20) for _ in range(2)
    ]  # in each pair one is right: no draw is anything but a half
    assert (
        interval({"perceive": one[0]}) == (0.5, 0.5, 0.5) and interval({"chart": one[1]})[1] < 0.45
    )


def test_costs_by_hand(table, records):
    shape = Shape.of(decoder(load_vision("zipr1/tiny")[0]).config)
    for name in table:
        flops, kv, dense = {}, {}, {}
        for record in records[name]:
            short = name in ("Downsample", "Fewer frames")
            pairs = [
                (r * record.tokens, 1) if short else (record.tokens, r) for r in record.layer_ratios
            ]
            flops[record.task] = flops.get(record.task, 0) + sum(
                layer_flops(shape, *pair) for pair in pairs
            )
            dense[record.task] = dense.get(record.task, 0) + 5 * layer_flops(shape, record.tokens)
            kv.setdefault(record.task, []).append(
                (record.token_ratio * record.tokens, record.tokens)
            )
        assert table[name]["flops"] == pytest.approx(
            np.mean([flops[task] / dense[task] for task in flops]), abs=1e-4
        )
        share = [
            np.sum([kept for kept, _ in rows]) / np.sum([tokens for _, tokens in rows])
            for rows in kv.values()
        ]
        assert table[name]["kv_bytes"] == pytest.approx(np.mean(share))
        assert 0 < table[name]["time_low"] <= table[name]["time"] <= table[name]["time_high"]
        tokens = np.mean([np.mean([kept for kept, _ in rows]) for rows in kv.values()])
        assert table[name]["kv_bytes_kept"] == pytest.approx(
            5 * 2 * 2 * 32 * 4 * tokens
        )  # layers, k and v, heads of 32, bytes
    assert [table["Full"][name] for name in ("flops", "kv_bytes", "time")] == [1, 1, 1]
    assert table["Downsample"]["flops"] < table["TopK"]["flops"] < 1


def test_tasks_that_are_not_learned_are_marked(suite, table):
    saved, text = json.loads((suite / "table.json").read_text()), (suite / "table.md").read_text()
    full, priors = table["Full"]["per_task"], saved["priors"]
    poor = [task for task in full if full[task] - priors[task] < 0.15]
    assert saved["unlearned"] == poor and set(priors) == {"shapes", "motion"}
    heads = " | ".join(f"{task}*" if task in poor else task for task in full)
    assert f"| {heads} |" in text and ("mean without *" in text) == ("not learned" in text) == bool(
        poor
    )
    for name, row in table.items():
        rest = [accuracy for task, accuracy in row["per_task"].items() if task not in poor]
        assert (
            row["learned"]["accuracy"] == pytest.approx(np.mean(rest))
            if rest
            else row["learned"] is None
        ), name
    lines = text.splitlines()
    assert len({line.count("|") for line in lines[:11]}) == 1 and lines[2].startswith(
        "| Full | - | 100.0 % |"
    )
    assert lines[10].startswith("| Fewer frames | ratio 0.") and "| - |" in lines[10]
    latex = (suite / "table.tex").read_text()
    assert latex.count(r"\\") == 10 and r"Fewer frames & " in latex and " & -- & " in latex


def test_the_table_marks_what_full_has_not_learned(tmp_path):
    def row(name: str, **correct: int) -> CostRow:
        answers = [(task, i, i < count) for task, count in correct.items() for i in range(10)]
        records = [
            Record(task, f"{task}/test/{i}/0", name, None, "", "", good, 1.0, (1.0,), 10)
            for task, i, good in answers
        ]
        return cost_row(name, records, {"shapes"})

    def text(priors: dict[str, float]) -> str:
        rows = [row("Full", shapes=9, motion=5), row("Fewer frames", motion=7)]
        return write_suite_table(
            Table(rows, priors=priors, unlearned=unlearned(rows[0], priors)), tmp_path
        )

    marked = text({"shapes": 0.5, "motion": 0.4})
    assert json.loads((tmp_path / "table.json").read_text())["unlearned"] == ["motion"]
    assert "| shapes | motion* |" in marked
    assert "shapes & motion*" in (tmp_path / "table.tex").read_text()
    full, few = (line for line in marked.splitlines() if line.startswith(("| Full", "| Fewer")))
    assert "| **70.0**" in full and "| 90.0 (" in full and "| - | - | 100 |" in few
    assert "not learned: Full is less than 15 points above it" in marked
    assert "not learned" not in text({"shapes": 0.5, "motion": 0.2})


def test_curves(suite, records):
    found = json.loads((suite / "curve.json").read_text())["curves"]
    assert list(found) == ["mean", "shapes", "motion"]
    whole = [
        "Full",
        "ZipVL",
        "ZipR1 (exact)",
        *ENGINE,
        "Downsample",
    ]  # not Fewer frames: no mean over all tasks
    assert list(found["mean"]) == list(found["shapes"]) == whole and list(found["motion"]) == [
        *whole,
        "Fewer frames",
    ]
    for task, curves in found.items():
        few = [
            record.correct
            for name in ("shapes", "motion")
            if task in (name, "mean")
            for record in [one for one in records["Full"] if one.task == name][:2]
        ]
        (full,) = curves.pop("Full")
        assert full["accuracy"] == np.mean(few) and full["questions"] == len(
            few
        )  # of the same questions as the curves
        for name, rows in curves.items():
            assert len(rows) == 2 and rows[0]["token_ratio"] <= rows[1]["token_ratio"]
            assert all(
                row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in rows
            )
            assert all(row["questions"] == len(few) for row in rows)
            assert sorted(row["p"] or 0 for row in rows) == (
                [0.6, 0.8] if name.startswith("Zip") else [0, 0]
            )
    for name in ("mean", "shapes", "motion"):
        image = np.asarray(Image.open(suite / "curves" / f"{name}.png").convert("RGB"))
        assert image[0, 0].min() == 255 and image.std() > 10  # on white, whatever the page


def test_it_goes_on_where_it_stopped(suite, trained, tmp_path, capsys):
    folder = shutil.copytree(suite, tmp_path / "copy")
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "answers").iterdir()}
    gone = next(name for name in before if name.startswith("Random"))
    (folder / "answers" / gone).unlink()
    main([*command(folder, trained), "--json"])
    rows = json.loads(capsys.readouterr().out)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "answers").iterdir()}
    assert before.keys() == after.keys() and [
        name for name in before if before[name] != after[name]
    ] == [gone]
    timeless = [
        [{k: v for k, v in row.items() if "time" not in k} for row in found]
        for found in (rows, json.loads((suite / "table.json").read_text())["rows"])
    ]
    assert timeless[0] == timeless[1]
    assert (folder / "records.jsonl").read_text() == (suite / "records.jsonl").read_text()


def test_answers_of_other_settings_are_not_taken(suite, trained, tmp_path, capsys):
    folder = shutil.copytree(suite, tmp_path / "copy")
    said = refused(capsys, *command(folder, trained, "--questions", "5"))
    assert "holds results of another questions; give another --output_dir" in said
    other = shutil.copytree(trained, tmp_path / "final")
    state = json.loads((folder / "suite.json").read_text())
    assert state["weights"]["zipr1/tiny"]["model.safetensors"] == stamp(
        EMBEDDED["zipr1/tiny"] / "model.safetensors"
    )
    for model in (str(trained), "zipr1/tiny"):  # trained anew since
        old = json.loads(json.dumps(state))
        old["weights"][model]["model.safetensors"][1] -= 1
        (folder / "suite.json").write_text(json.dumps(old))
        assert "holds results of another weights;" in refused(capsys, *command(folder, trained))
    assert "holds results of another trained, weights" in refused(capsys, *command(folder, other))
    (folder / "suite.json").write_text(json.dumps(state | {"code": "of an older version"}))
    assert "holds results of another code;" in refused(capsys, *command(folder, trained))


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--methods", "full"], "methods: an option of no suite, not of --suite tiny13"),
        (["--recipe", "x.yaml"], "recipe: an option of --suite paper"),
        (["--curve", "0.9,2"], "p=2"),
        (["--curve_questions", "0"], "curve_questions=0"),
        (["--tasks", "golf"], "golf"),
        (["--trained", "exact="], "'exact=' in 'exact='"),
        (["--trained", "a=x,a=y"], "'a=y' in 'a=x,a=y'"),
        (["--trained", "exact=no/such/folder"], "no/such/folder: neither a model folder"),
    ],
)
def test_bad_settings_are_refused(capsys, tmp_path, flags, word):
    arguments = [
        "eval",
        "zipr1/tiny",
        "--suite",
        "tiny13",
        "--output_dir",
        str(tmp_path),
        "--threads",
        "1",
        *flags,
    ]
    assert word in refused(capsys, *arguments) and not list(tmp_path.glob("answers/*"))


def test_fewer_frames_of_pictures_is_refused(capsys, tmp_path):
    flags = [
        "--methods",
        "fewer_frames",
        "--tasks",
        "shapes",
        "--questions",
        "1",
        "--output_dir",
        str(tmp_path),
    ]
    assert "choose tasks that show videos" in refused(capsys, "eval", "zipr1/tiny", *flags)


def test_the_report_reads_the_folder(suite, tmp_path):
    main(["report", str(suite), "-o", str(tmp_path / "report.html")])
    page = (tmp_path / "report.html").read_text()
    data = json.loads(
        page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    )
    assert [method["name"] for method in data["methods"]][:3] == ["Full", "ZipVL", "ZipR1 (exact)"]
    assert [method["full"] for method in data["methods"]] == [None] + 8 * [0] and data[
        "asked"
    ] == 2 * QUESTIONS
    assert [method["shorter"] for method in data["methods"]] == 7 * [False] + 2 * [True]
    assert (
        page.count("<svg") == 3 and "KV bytes" in page and page.count("<tr>") == 10
    )  # the mean, each task
    table = json.loads((suite / "table.json").read_text())
    ratio = table["rows"][-1]["ratio"]
    assert "p or ratio" in page and f"<td>ratio {ratio}</td>" in page and "Fewer frames†" in page
    assert re.search(r"† Fewer frames: all its numbers are over\s+motion alone", page)
    assert f"shapes {100 * table['priors']['shapes']:.1f}" in page
    for poor in ([], ["motion"]):
        folder = shutil.copytree(suite, tmp_path / f"poor{len(poor)}")
        for row in table["rows"]:
            row["learned"] = {"accuracy": 0.987, "low": 0.98, "high": 0.99}
        (folder / "table.json").write_text(json.dumps(table | {"unlearned": poor}))
        main(["report", str(folder), "-o", str(folder / "report.html")])
        page = (folder / "report.html").read_text()
        assert (
            (">motion*<" in page)
            == ("Mean without *" in page)
            == ("* not learned" in page)
            == bool(poor)
        )
        assert page.count("<td>98.7") == 9 * len(poor)


@pytest.mark.slow
def test_two_processes_find_the_same(suite, trained, tmp_path):
    main([*command(tmp_path, trained), "--threads", "2"])
    assert (tmp_path / "records.jsonl").read_text() == (suite / "records.jsonl").read_text()
