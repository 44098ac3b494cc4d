"""The paper's tables: scores from samples by hand, intervals, resumption, and the command on two benchmarks."""

import json

import lmms_fixtures
import numpy as np
import pytest

from zipr1.cli import main
from zipr1.fingerprint import weights
from zipr1.model import EMBEDDED
from zipr1.paper_tasks import BENCHMARKS, arranged, combined, resampled, total
from zipr1.suite import SuiteConfig, finished, identity_of, run_task
from zipr1.suite_report import suite_latex, suite_markdown, suite_rows

BY_NAME = {benchmark.name: benchmark for benchmark in BENCHMARKS}


def mme(*pictures: tuple[str, int, int]) -> list[dict]:
    return [
        {"doc_id": 2 * i + j, "mme_perception_score": {"question_id": i, "category": category, "score": float(right)}}
        for i, (category, *pair) in enumerate(pictures)
        for j, right in enumerate(pair)
    ]


def test_mme_by_hand():
    # existence: accuracy 75, both right 50; count: 50 and 0
    score = BY_NAME["MME"].scores[0]
    values = arranged(score, mme(("existence", 1, 1), ("existence", 1, 0), ("count", 0, 1)))
    assert {name: row.tolist() for name, row in values.items()} == {"existence": [2.0, 0.5], "count": [0.5]}
    assert total(score, values) == pytest.approx(75 + 50 + 50)
    draws = resampled(score, values, 500)
    assert set(draws.round(6)) == {100.0, 175.0, 250.0}  # both pictures of existence are one, either, the other


def test_means_of_means_and_counts_by_hand():
    mlvu, ocr = BY_NAME["MLVU-dev"].scores[0], BY_NAME["OCRBench"].scores[0]
    rows = [("count", "A"), ("count", "B"), ("ego", "A")]
    samples = [
        {"doc_id": i, "mlvu_percetion_score": {"task_type": kind, "pred_answer": "A", "answer": answer}}
        for i, (kind, answer) in enumerate(rows)
    ]
    assert total(mlvu, arranged(mlvu, samples)) == 75  # (50 + 100) / 2
    samples = [{"doc_id": i, "ocrbench_accuracy": {"score": right}} for i, right in enumerate((1, 1, 0))]
    assert total(ocr, arranged(ocr, samples)) == 2
    assert combined(BY_NAME["VideoMME"], [60.0, 70.0]) == [60.0, 70.0]
    assert combined(BY_NAME["MME"], [1600.0, 600.0]) == [2200.0]
    assert combined(BY_NAME["MMMU-Pro"], [30.0, 40.0]) == [35.0]


def test_mmbench_is_judged_by_rules_and_with_its_copies():
    score = BY_NAME["MMBench-EN"].scores[0]
    options = {"A": "red", "B": "blue", "C": "nan", "D": "nan", "E": "nan"}
    rows = [(1, "A", "A"), (1_000_001, "B", "B"), (2, "A", "The disc is red."), (1_000_002, "B", "A"), (3, "B", "none of them")]
    entries = [{"index": i, "answer": right, "prediction": said, "question": "?"} | options for i, right, said in rows]
    samples = [{"doc_id": i, "gpt_eval_score": entry} for i, entry in enumerate(entries)]
    values = arranged(score, samples)
    assert values[""].tolist() == [1, 0, 0]  # of the second, the copy is wrong
    assert total(score, values) == pytest.approx(100 / 3)


def test_open_questions_of_videommmu_by_hand():
    score = BY_NAME["VideoMMMU"].scores[2]
    rows = [
        ("multiple-choice", "B", "B"), ("multiple-choice", "B", "No Answer Found."), ("perception", "A", "A"),
        ("open", "2.5", [2.5, "about"]), ("open", "red disc", ["a red disc on white"]), ("open", "7", [8.0]),
        ("open", "7", "API Error"),
    ]  # fmt: skip
    samples = [
        {"doc_id": i, "mmmu_acc": {"id": str(i), "question_type": kind, "answer": answer, "parsed_pred": said}}
        for i, (kind, answer, said) in enumerate(rows)
    ]
    values = arranged(score, samples)
    assert values[""].tolist()[:6] == [1, 0, 1, 1, 1, 0] and np.isnan(values[""][6])
    assert total(score, values) == pytest.approx(100 * 4 / 6)  # lmms-eval leaves out what has no answer at all
    draws = resampled(score, values, 500)
    assert draws.min() < total(score, values) < draws.max() and np.isfinite(draws).all()


def test_equal_seeds_pair_the_questions():
    score = BY_NAME["ChartQA"].scores[0]
    rng = np.random.default_rng(0)
    base = {"": rng.integers(0, 2, 200).astype(float)}
    better = {"": base[""].copy()}
    better[""][:4] = 1 - base[""][:4]
    spread = np.std(resampled(score, better, 500) - resampled(score, base, 500))
    assert spread < np.std(resampled(score, base, 500)) / 2


def test_results_of_other_settings_are_not_taken(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    arguments = {"pretrained": str(model), "p": 0.975}
    identity = identity_of(SuiteConfig(), "mme", arguments)
    assert finished(tmp_path, identity) is None
    for name in ("r", "s"):
        (tmp_path / name).touch()
    (tmp_path / "done.json").write_text(json.dumps({"identity": identity, "results": "r", "samples": "s"}))
    several = identity_of(SuiteConfig(processes=2, device="cpu"), "mme", arguments)
    assert finished(tmp_path, several) == {"results": tmp_path / "r", "samples": tmp_path / "s"}
    with pytest.raises(ValueError, match="another model_args"):
        finished(tmp_path, identity_of(SuiteConfig(), "mme", arguments | {"p": 0.9}))
    (model / "model.safetensors").write_bytes(b"trained further")
    with pytest.raises(ValueError, match="another weights"):
        finished(tmp_path, identity_of(SuiteConfig(), "mme", arguments))
    with pytest.raises(ValueError, match="another code"):
        finished(tmp_path, identity | {"code": "of a later version"})
    (tmp_path / "s").unlink()
    assert finished(tmp_path, identity) is None  # to be asked again


def test_what_stands_for_the_weights(tmp_path, monkeypatch):
    """The embedded model's files; of a hub id the revision of its snapshot; of an adapter its base too."""
    file = EMBEDDED["zipr1/tiny"] / "model.safetensors"
    assert weights("zipr1/tiny")["model.safetensors"] == [file.stat().st_size, file.stat().st_mtime_ns]
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
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    found = weights(tmp_path / "adapter")
    assert found["base"] == {"revision": revision} and "adapter_config.json" in found


def test_a_task_that_writes_nothing_has_failed(tmp_path):
    for said in ("ValueError: no such thing", "video path: v.mp4 does not exist"):
        why = run_task(tmp_path / "a", ["python3", "-c", f"print('{said}')"], {})  # exit status 0
        assert said in why and "log.txt" in why and not (tmp_path / "a" / "done.json").exists()


def test_files_that_a_task_writes_beside_its_results_are_none(tmp_path):
    made = ("m/20261121_120000_results.json", "m/20261121_120000_samples_mmbench.jsonl", "submissions/mmbench_results.json")
    script = "; ".join(f"p = pathlib.Path('{tmp_path}/{name}'); p.parent.mkdir(exist_ok=True); p.touch()" for name in made)
    assert run_task(tmp_path, ["python3", "-c", f"import pathlib; {script}"], {"task": "x"}) is None
    assert finished(tmp_path, {"task": "x"})["results"] == tmp_path / made[0]


def test_a_missing_number_costs_its_own_cell_alone(tmp_path):
    for task, results in (("mmstar", {"average,none": 0.5}), ("chartqa", {})):
        (tmp_path / task).write_text(json.dumps({"results": {task: results}}))
        entry = {"average": {"score": 1.0, "l2_category": "x"}, "relaxed_overall": 1.0}
        sample = {"doc_id": 0, "token_counts": [{"token_ratio": 0.5}]} | entry
        (tmp_path / f"{task}.jsonl").write_text(json.dumps(sample) + "\n")
    files = {task: {"results": tmp_path / task, "samples": tmp_path / f"{task}.jsonl"} for task in ("mmstar", "chartqa")}
    failed = {}
    (row,) = suite_rows(["MMStar", "ChartQA"], {"Full": files}, failed)
    assert row["benchmarks"]["MMStar"]["score"] == [50] and row["benchmarks"]["ChartQA"] is None
    assert "relaxed_overall" in failed["Full, ChartQA"]


def test_options_of_the_other_kind_are_refused(capsys):
    for flags, word in ((["--suite", "paper", "--methods", "full"], "methods"), (["--trained", "x"], "trained")):
        with pytest.raises(SystemExit) as stop:
            main(["eval", "zipr1/tiny", *flags])
        assert stop.value.code == 2 and f"{word}: " in capsys.readouterr().err


def test_the_thirteen():
    assert [sum(b.table == table for b in BENCHMARKS) for table in (1, 2)] == [7, 6]
    with pytest.raises(ValueError, match="'GQA' is none of MME"):
        SuiteConfig(benchmarks=["GQA"])


def test_tables_in_the_papers_shape():
    cell = {"score": [58.2, 66.4], "low": [57.0, 65.0], "high": [59.0, 68.0], "difference": [-0.3, 0.2]}
    rows = [
        {"table": 2, "method": "ZipVL", "token_ratio": 0.7123, "benchmarks": {"VideoMME": cell, "MLVU-dev": None}},
    ]
    assert "| ZipVL | 71.2 | 58.2/66.4 (57.0 to 59.0/65.0 to 68.0) [-0.3/+0.2] | failed |" in suite_markdown(rows)
    assert r"ZipVL & 71.2 & 58.2/66.4 & failed \\" in suite_latex(rows)


@pytest.mark.slow
def test_the_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    for name, value in lmms_fixtures.write(tmp_path).items():
        monkeypatch.setenv(name, value)
    recipe = tmp_path / "recipe.yaml"
    settings = {"benchmarks": ["MMStar", "MLVU-dev"], "model_args": {"max_frames": 4}, "batch_size": 4, "device": "cpu"}
    recipe.write_text(json.dumps(settings | {"prefix": "fixture_", "include_path": str(tmp_path / "tasks")}))
    command = ["eval", "zipr1/tiny", "--suite", "paper", "--recipe", str(recipe), "--output_dir", str(tmp_path / "out")]
    clip = tmp_path / "hf" / "mlvu" / "v.mp4"
    whole = clip.read_bytes()
    clip.write_bytes(b"no clip")
    with pytest.raises(SystemExit) as stop:
        main(command)
    out, said = capsys.readouterr()
    assert stop.value.code == 1 and "2 tasks failed" in said and "v.mp4" in said and "| failed |" in out
    partial = json.loads((tmp_path / "out" / "tables.json").read_text())
    assert [row["benchmarks"].get("MLVU-dev") for row in partial["rows"] if row["table"] == 2] == [None, None]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/mmstar/done.json")}
    clip.write_bytes(whole)
    main([*command, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["table"], row["method"]) for row in rows] == [(1, "Full"), (1, "ZipVL"), (2, "Full"), (2, "ZipVL")]
    assert rows[0]["token_ratio"] == 1 and 0 < rows[1]["token_ratio"] < 1
    assert len(times) == 2 and all(path.stat().st_mtime_ns == time for path, time in times.items())
    for row in rows:
        for cell in row["benchmarks"].values():
            assert cell["low"][0] <= cell["score"][0] <= cell["high"][0]
