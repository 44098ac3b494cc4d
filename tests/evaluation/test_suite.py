"""The paper's tables: scores from samples by hand, intervals, resumption, and the command."""

import json
from dataclasses import replace

import lmms_fixtures
import numpy as np
import pytest

from zipr1.cli.main import main
from zipr1.common.errors import InputError
from zipr1.common.recipe import read_recipe
from zipr1.evaluation.fingerprint import weights
from zipr1.evaluation.paper.benchmarks import BENCHMARKS, Benchmark
from zipr1.evaluation.paper.config import SuiteConfig
from zipr1.evaluation.paper.inputs import task_settings
from zipr1.evaluation.paper.requirements import requirements
from zipr1.evaluation.paper.results import paper_rows
from zipr1.evaluation.paper.rows import Cell, PaperRow, read_paper_rows
from zipr1.evaluation.paper.scores import Unit, combined, percent, resampled, total, units
from zipr1.evaluation.paper.suite import finished, identity_of, run_task
from zipr1.evaluation.paper.tables import suite_latex, suite_markdown
from zipr1.models.location import EMBEDDED

BY_NAME = {benchmark.name: benchmark for benchmark in BENCHMARKS}


def mme(*pictures: tuple[str, int, int]) -> list[dict]:
    return [
        {
            "doc_id": 2 * i + j,
            "media": i,
            "mme_perception_score": {"question_id": i, "category": category, "score": right},
        }
        for i, (category, *pair) in enumerate(pictures)
        for j, right in enumerate(pair)
    ]


def alone(name: str) -> Benchmark:
    """A benchmark with the first of its scores only."""
    return replace(BY_NAME[name], scores=BY_NAME[name].scores[:1])


def values(found: list[Unit]) -> list[float]:
    return [unit.value for unit in found]


def test_mme_by_hand():
    # existence: accuracy 75, both right 50; count: 50 and 0
    score = BY_NAME["MME"].scores[0]
    found = units(score, mme(("existence", 1, 1), ("existence", 1, 0), ("count", 0, 1)))
    assert found == [Unit("existence", 2.0, 0), Unit("existence", 0.5, 1), Unit("count", 0.5, 2)]
    assert total(score, found) == pytest.approx(75 + 50 + 50)
    (draws,) = resampled(alone("MME"), [found], 500)
    assert set(draws.round(6)) == {
        100.0,
        175.0,
        250.0,
    }  # both pictures of existence are one, either, the other


def test_means_of_means_and_counts_by_hand():
    mlvu, ocr = BY_NAME["MLVU-dev"].scores[0], BY_NAME["OCRBench"].scores[0]
    rows = [("count", "A"), ("count", "B"), ("ego", "A")]
    samples = [
        {
            "doc_id": i,
            "media": i,
            "mlvu_percetion_score": {"task_type": kind, "pred_answer": "A", "answer": answer},
        }
        for i, (kind, answer) in enumerate(rows)
    ]
    assert total(mlvu, units(mlvu, samples)) == 75  # (50 + 100) / 2
    # three questions, two of them about one picture: a draw of it twice is still of three questions
    samples = [
        {"doc_id": i, "media": i // 2, "ocrbench_accuracy": {"score": right}}
        for i, right in enumerate((1, 1, 0))
    ]
    assert total(ocr, units(ocr, samples)) == 2
    (draws,) = resampled(BY_NAME["OCRBench"], [units(ocr, samples)], 500)
    assert set(draws.round(6)) == {0.0, 2.0, 3.0}
    assert combined(BY_NAME["VideoMME"], [60.0, 70.0]) == [60.0, 70.0]
    assert combined(BY_NAME["MME"], [1600.0, 600.0]) == [2200.0]
    assert combined(BY_NAME["MMMU-Pro"], [30.0, 40.0]) == [35.0]
    assert (
        percent(BY_NAME["MME"], [2100.0]) == 75 and percent(BY_NAME["VideoMME"], [60.0, 70.0]) == 65
    )


def test_questions_about_one_clip_are_drawn_together():
    """Both about one video correct, both about another incorrect: a draw is one, either, or the
    other, never a quarter."""
    score = BY_NAME["PerceptionTest"].scores[0]
    samples = [
        {"doc_id": i, "media": f"{i // 2}.mp4", "accuracy": {"correct": i // 2}} for i in range(4)
    ]
    (draws,) = resampled(BY_NAME["PerceptionTest"], [units(score, samples)], 500)
    assert set(draws) == {0.0, 50.0, 100.0} and abs((draws == 50).mean() - 0.5) < 0.1
    # with and without subtitles the clips are the same, and so are the draws
    entries = [
        {"doc_id": i, "media": f"{i}.mp4", "videomme_perception_score": {"score": i % 2}}
        for i in range(10)
    ]
    without, subtitled = resampled(
        BY_NAME["VideoMME"], [units(score, entries) for score in BY_NAME["VideoMME"].scores], 500
    )
    assert (without == subtitled).all() and without.std() > 5


def test_mmbench_is_judged_by_rules_and_with_its_copies():
    score = BY_NAME["MMBench-EN"].scores[0]
    options = {"A": "red", "B": "blue", "C": "nan", "D": "nan", "E": "nan"}
    rows = [
        (1, "A", "A"),
        (1_000_001, "B", "B"),
        (2, "A", "The disc is red."),
        (1_000_002, "B", "A"),
        (3, "B", "none of them"),
    ]
    entries = [
        {"index": i, "answer": right, "prediction": said, "question": "?"} | options
        for i, right, said in rows
    ]
    samples = [
        {"doc_id": i, "media": i, "gpt_eval_score": entry} for i, entry in enumerate(entries)
    ]
    found = units(score, samples)
    assert values(found) == [1, 0, 0]  # of the second, the copy is wrong
    assert total(score, found) == pytest.approx(100 / 3)


def test_open_questions_of_videommmu_by_hand():
    score = BY_NAME["VideoMMMU"].scores[2]
    rows = [
        ("multiple-choice", "B", "B"),
        ("multiple-choice", "B", "No Answer Found."),
        ("perception", "A", "A"),
        ("open", "2.5", [2.5, "about"]),
        ("open", "red disc", ["a red disc on white"]),
        ("open", "7", [8.0]),
        ("open", "7", "API Error"),
    ]
    samples = [
        {
            "doc_id": i,
            "media": i,
            "mmmu_acc": {"question_type": kind, "answer": answer, "parsed_pred": said},
        }
        for i, (kind, answer, said) in enumerate(rows)
    ]
    found = units(score, samples)
    assert values(found)[:6] == [1, 0, 1, 1, 1, 0] and np.isnan(found[6].value)
    assert total(score, found) == pytest.approx(
        100 * 4 / 6
    )  # lmms-eval leaves out what has no answer at all
    (draws,) = resampled(alone("VideoMMMU"), [found], 500)
    assert draws.min() < total(score, found) < draws.max() and np.isfinite(draws).all()
    # No interval can be drawn from answers that are all empty: the cell fails, not the suite.
    with pytest.raises(InputError, match="adaptation: no sample has a number as 'mmmu_acc'"):
        units(score, samples[6:])


def written(folder, task: str, metric: str, values: list[float], number: float, **more) -> dict:
    """The files of a task, as lmms-eval writes them: one question a picture."""
    folder.mkdir(exist_ok=True)
    rows = [
        {
            "doc_id": i,
            "filtered_resps": "a\u2028b\u0085c",
            "token_counts": [{"token_ratio": 0.5, "medium": f"{i}"}],
            metric: value,
        }
        for i, value in enumerate(values)
    ]
    files = {
        "results": folder / f"{task}_results.json",
        "samples": folder / f"{task}_samples.jsonl",
    }
    files["results"].write_text(json.dumps({"results": {task: {f"{metric},none": number}}}))
    files["samples"].write_text(
        "".join(json.dumps(row | more, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return {task: files}


def chartqa(folder, values: list[float], **more) -> dict:
    return written(folder, "chartqa", "relaxed_overall", values, float(np.mean(values)), **more)


@pytest.mark.parametrize(
    ("full", "mine", "expected"),
    [
        # half of the draws have the better picture once, a quarter not at all, a quarter twice
        ([0, 0], [1, 0], (50, 0, 100)),
        # always one more correct answer, whichever are drawn; unpaired, the difference could be
        # anything
        ([0, 0], [1, 1], (100, 100, 100)),
        ([1, 0], [1, 0], (0, 0, 0)),
        # -1, 1, 1: all three draws of the first have a probability of 1/27, above the 2.5 % of one
        # end
        ([1, 0, 0], [0, 1, 1], (100 / 3, -100, 100)),
    ],
)
def test_differences_to_full_by_hand(tmp_path, full, mine, expected):
    failed = {}
    files = {"Full": chartqa(tmp_path / "full", full), "ZipVL": chartqa(tmp_path / "mine", mine)}
    _, row = paper_rows(["ChartQA"], files, failed)
    for cell in (row.benchmarks["ChartQA"], row.mean):
        found = [cell.difference[0], cell.difference_low[0], cell.difference_high[0]]
        assert found == pytest.approx(expected) and cell.score == [
            pytest.approx(100 * np.mean(mine))
        ]
    assert not failed and row.token_ratio == 0.5


def test_other_questions_than_fulls_are_no_difference(tmp_path):
    failed = {}
    files = {
        "Full": chartqa(tmp_path / "full", [0, 1]),
        "ZipVL": chartqa(tmp_path / "mine", [0, 1, 1]),
    }
    _, row = paper_rows(["ChartQA"], files, failed)
    assert row.benchmarks["ChartQA"] is None and failed == {
        "ZipVL, ChartQA": "other questions than Full's (3 and 2)"
    }


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (lambda files: files["samples"].unlink(), "samples.jsonl: no such file"),
        (lambda files: files["results"].unlink(), "results.json: no such file"),
        (lambda files: files["samples"].write_text(""), "no samples"),
        (
            lambda files: files["samples"].write_text('{"doc_id": 0, "token_counts": [null]}\n'),
            "samples.jsonl:1: not what",
        ),
        (
            lambda files: files["samples"].write_text('{"doc_id": 0, "token_counts": []}\n'),
            "samples.jsonl:1: not what",
        ),
        (
            lambda files: files["samples"].write_text('{"token_counts": [{"token_ratio": 1}]}\n'),
            "KeyError: 'doc_id'",
        ),
        (
            lambda files: files["samples"].write_text("{"),
            "samples.jsonl:1: not what lmms-eval 0.7.3 writes (JSONDecodeError",
        ),
        (
            lambda files: files["samples"].write_text(
                '{"doc_id": 0, "token_counts": [{"token_ratio": 1}], "average": {}}\n'
            ),
            "mmstar, average: not what lmms-eval 0.7.3 writes (KeyError: 'l2_category')",
        ),
        (
            lambda files: files["samples"].write_text(
                '{"doc_id": 0, "token_counts": [{"token_ratio": 1}]}\n'
            ),
            "no sample has 'average'",
        ),
        (lambda files: files["results"].write_text("[]"), "results.json: not what"),
        (
            lambda files: files["results"].write_text('{"results": {"mmstar": {}}}'),
            "no number under 'average'",
        ),
    ],
)
def test_results_that_cannot_be_read_cost_their_own_cell_alone(tmp_path, broken, word):
    files = chartqa(tmp_path, [1]) | written(
        tmp_path, "mmstar", "average", [{"score": 1.0, "l2_category": "x"}], 0.5
    )
    broken(files["mmstar"])
    failed = {}
    (row,) = paper_rows(["MMStar", "ChartQA"], {"Full": files}, failed)
    assert row.benchmarks["ChartQA"].score == [100] and row.benchmarks["MMStar"] is None
    assert list(failed) == ["Full, MMStar"] and word in failed["Full, MMStar"]
    assert "| Full | 50.0 (1 of 2) | failed | 100.0 (100.0 to 100.0) |" in suite_markdown([row])
    assert "| Full | 50.0 (1 of 2) | 100.0 (100.0 to 100.0) (1 of 2) | - |" in suite_markdown([row])


def test_answers_that_nobody_judged_are_counted(tmp_path):
    read, unread = {"rating": 1, "match_success": True}, {"rating": 0, "match_success": False}
    parts = ("multi_choice", "yes_no", "caption_matching")
    entries = {
        "multi_choice": [read, unread],
        "yes_no": [read, unread | {"chatgpt_response": "Incorrect"}],
    }
    files = {}
    for part in parts:
        files |= written(
            tmp_path,
            f"tempcompass_{part}",
            "avg_accuracy",
            entries.get(part, [unread, unread]),
            50.0,
        )
    (row,) = paper_rows(["TempCompass"], {"Full": files}, {})
    assert row.benchmarks["TempCompass"].unjudged == 3 and "3 unjudged" in suite_markdown([row])


def test_what_is_needed_is_said_before_the_start(tmp_path, monkeypatch):
    (tmp_path / "mlvu").mkdir()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    names = ["mme", "videomme", "videomme_w_subtitle", "mlvu_dev", "tempcompass_yes_no"]
    tasks = task_settings(names, "", None)
    mme, videomme, mlvu, tempcompass = requirements(tasks, str(tmp_path))
    assert mme == "MME: data lmms-lab-encoder/MME"
    assert (
        videomme
        == f"VideoMME: data lmms-eval/Video-MME, videos to be downloaded to {tmp_path}/videomme"
    )
    assert mlvu == f"MLVU-dev: data sy1998/MLVU_dev, videos in {tmp_path}/mlvu"
    assert (
        tempcompass.startswith("TempCompass: data lmms-eval/TempCompass, videos")
        and "OPENAI_API_KEY is not set" in tempcompass
    )
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    assert "OPENAI_API_KEY is set" in requirements(tasks, str(tmp_path))[-1]
    with pytest.raises(ValueError, match="no_such_mme: lmms-eval knows no such task"):
        task_settings(["mme"], "no_such_", None)


def test_results_of_other_settings_are_not_taken(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    arguments = {"pretrained": str(model), "p": 0.975}
    identity = identity_of(SuiteConfig(), arguments)
    assert finished(tmp_path, identity) is None
    for name in ("r", "s"):
        (tmp_path / name).touch()
    (tmp_path / "done.json").write_text(
        json.dumps({"identity": identity, "results": "r", "samples": "s"})
    )
    several = identity_of(SuiteConfig(processes=2, device="cpu"), arguments)
    assert finished(tmp_path, several) == {"results": tmp_path / "r", "samples": tmp_path / "s"}
    with pytest.raises(ValueError, match="another model_args"):
        finished(tmp_path, identity_of(SuiteConfig(), arguments | {"p": 0.9}))
    (model / "model.safetensors").write_bytes(b"trained further")
    with pytest.raises(ValueError, match="another weights"):
        finished(tmp_path, identity_of(SuiteConfig(), arguments))
    with pytest.raises(ValueError, match="another code"):
        finished(tmp_path, identity | {"code": "of a later version"})
    (tmp_path / "s").unlink()
    assert finished(tmp_path, identity) is None  # to be asked again


def test_what_stands_for_the_weights(tmp_path, monkeypatch):
    """The embedded model's files; of a hub id the revision of its snapshot; of an adapter also
    those of its base."""
    file = EMBEDDED["zipr1/tiny"] / "model.safetensors"
    assert weights("zipr1/tiny")["model.safetensors"] == [
        file.stat().st_size,
        file.stat().st_mtime_ns,
    ]
    revision = "0123456789" * 4
    snapshot = tmp_path / "models--someone--model" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights("someone/model") == {"revision": revision}
    with pytest.raises(OSError, match="someone/nothing"):
        weights("someone/nothing")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "someone/model"}'
    )
    found = weights(tmp_path / "adapter")
    assert found["base"] == {"revision": revision} and "adapter_config.json" in found


def test_a_task_that_writes_nothing_has_failed(tmp_path):
    for said in ("ValueError: no such thing", "video path: v.mp4 does not exist"):
        why = run_task(tmp_path / "a", ["python3", "-c", f"print('{said}')"], {})  # exit status 0
        assert said in why and "log.txt" in why and not (tmp_path / "a" / "done.json").exists()


def test_files_that_a_task_writes_beside_its_results_are_none(tmp_path):
    made = (
        "m/20261121_120000_results.json",
        "m/20261121_120000_samples_mmbench.jsonl",
        "submissions/mmbench_results.json",
    )
    script = "; ".join(
        f"p = pathlib.Path('{tmp_path}/{name}'); p.parent.mkdir(exist_ok=True); p.touch()"
        for name in made
    )
    assert run_task(tmp_path, ["python3", "-c", f"import pathlib; {script}"], {"task": "x"}) is None
    assert finished(tmp_path, {"task": "x"})["results"] == tmp_path / made[0]


def test_options_of_the_other_kind_are_refused(capsys):
    for flags, word in (
        (["--suite", "paper", "--methods", "full"], "methods"),
        (["--trained", "x"], "trained"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["eval", "zipr1/tiny", *flags])
        assert stop.value.code == 2 and f"{word}: " in capsys.readouterr().err


def test_the_thirteen():
    assert [sum(b.table == table for b in BENCHMARKS) for table in (1, 2)] == [7, 6]
    with pytest.raises(ValueError, match="'GQA' is none of MME"):
        SuiteConfig(benchmarks=["GQA"])
    with pytest.raises(ValueError, match="limit=3: must be even for MME"):
        SuiteConfig(limit=3)
    assert SuiteConfig(limit=3, benchmarks=["ChartQA"]).limit == 3


@pytest.mark.parametrize("name", ["eval_paper", "eval_paper_qwen2_vl"])
def test_the_shipped_recipes_are_read(name):
    settings = read_recipe(SuiteConfig, name)
    assert settings.benchmarks == [benchmark.name for benchmark in BENCHMARKS]
    assert settings.model_args["dtype"] == "bfloat16" and settings.model_args["max_pixels"] > 10**6


def test_tables_in_the_papers_shape(tmp_path):
    cell = Cell(
        score=[58.2, 66.4],
        low=[57.0, 65.0],
        high=[59.0, 68.0],
        difference=[-0.3, 0.2],
        difference_low=[-1.0, -0.5],
        difference_high=[0.4, 0.9],
    )
    both = {"method": "ZipR1 (my_run)", "mean": Cell(score=[62.3], low=[61.0], high=[63.5])}
    images = PaperRow(table=1, token_ratio=0.5, benchmarks={"ChartQA": cell}, **both)
    benchmarks = {"VideoMME": cell, "MLVU-dev": None}
    videos = PaperRow(table=2, token_ratio=0.7123, benchmarks=benchmarks, **both)
    markdown, latex = suite_markdown([images, videos]), suite_latex([images, videos])
    found = "58.2/66.4 (57.0 to 59.0/65.0 to 68.0) [-0.3, -1.0 to +0.4/+0.2, -0.5 to +0.9]"
    assert f"| ZipR1 (my_run) | 71.2 (1 of 2) | {found} | failed |" in markdown
    assert "| Method | Ratio | images | videos |" in markdown
    means = "62.3 (61.0 to 63.5) | 62.3 (61.0 to 63.5) (1 of 2) |"
    assert f"| ZipR1 (my_run) | 60.6 (2 of 3) | {means}" in markdown
    small = r"{\scriptsize (57.0 to 59.0/65.0 to 68.0) [-0.3, -1.0 to +0.4/+0.2, -0.5 to +0.9]}"
    line = rf"ZipR1 (my\_run) & 71.2 {{\scriptsize (1 of 2)}} & 58.2/66.4 {small} & failed \\"
    assert line in latex and latex.count(r"\begin{tabular}") == 3 and "my_run" not in latex
    # Of a version that had neither intervals nor means.
    cells = {"MMBench-EN": {"score": [80.0], "low": None, "high": None}}
    old = {"table": 1, "method": "Full", "token_ratio": 1.0, "benchmarks": cells}
    (tmp_path / "tables.json").write_text(json.dumps({"rows": [old], "failed": {}}))
    rows, _, _ = read_paper_rows(tmp_path / "tables.json")
    assert "| Full | 100.0 | 80.0 |" in suite_markdown(rows)
    assert "| Full | 100.0 | - | - |" in suite_markdown(rows)


@pytest.mark.slow
def test_the_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    for name, value in lmms_fixtures.write(tmp_path).items():
        monkeypatch.setenv(name, value)
    recipe = tmp_path / "recipe.yaml"
    settings = {
        "benchmarks": ["MMStar", "MLVU-dev"],
        "model_args": {"max_frames": 4},
        "batch_size": 4,
        "device": "cpu",
    }
    recipe.write_text(
        json.dumps(settings | {"prefix": "fixture_", "include_path": str(tmp_path / "tasks")})
    )
    command = [
        "eval",
        "zipr1/tiny",
        "--suite",
        "paper",
        "--recipe",
        str(recipe),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    clip = tmp_path / "hf" / "mlvu" / "v.mp4"
    whole = clip.read_bytes()
    clip.write_bytes(b"no clip")
    with pytest.raises(SystemExit) as stop:
        main(command)
    out, said = capsys.readouterr()
    assert (
        stop.value.code == 1
        and "2 tasks failed" in said
        and "v.mp4" in said
        and "| failed |" in out
    )
    partial = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert [row["benchmarks"].get("MLVU-dev") for row in partial["rows"] if row["table"] == 2] == [
        None,
        None,
    ]
    times = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/mmstar/done.json")
    }
    clip.write_bytes(whole)
    main([*command, "--json"])
    out, said = capsys.readouterr()
    rows = json.loads(out)
    assert (
        f"MLVU-dev: data {tmp_path}/data/mlvu_dev, videos in" in said and "MMStar" not in said
    )  # which is done
    assert [(row["table"], row["method"]) for row in rows] == [
        (1, "Full"),
        (1, "ZipVL"),
        (2, "Full"),
        (2, "ZipVL"),
    ]
    assert rows[0]["token_ratio"] == 1 and 0 < rows[1]["token_ratio"] < 1
    assert len(times) == 2 and all(path.stat().st_mtime_ns == time for path, time in times.items())
    for row in rows:
        for cell in row["benchmarks"].values():
            assert cell["low"][0] <= cell["score"][0] <= cell["high"][0]
