"""`zipr1 eval --suite paper` on folders of earlier runs whose tasks, data or judge have changed.

lmms-eval is replaced by what writes its files.
"""

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lmms_eval.tasks
import pytest

from zipr1.cli.main import main
from zipr1.evaluation.paper import suite
from zipr1.evaluation.paper.inputs import inputs_of

TASKS = (
    "chartqa",
    "tempcompass_multi_choice",
    "tempcompass_yes_no",
    "tempcompass_caption_matching",
)
METRICS = {"relaxed_overall": 1.0, "avg_accuracy": {"rating": 1, "match_success": True}}


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """A function that runs the command and returns the tasks that lmms-eval was started for."""
    folder, data, started = tmp_path / "tasks", tmp_path / "data", []
    folder.mkdir()
    data.mkdir()
    (data / "test.parquet").write_bytes(b"rows")
    (folder / "utils.py").write_text("def text(doc): return doc['question']\n")
    (folder / "base.yaml").write_text("output_type: generate_until\n")
    for task in TASKS:
        (folder / f"{task}.yaml").write_text(
            f"include: base.yaml\ntask: my_{task}\ndataset_path: {data}\n"
            "doc_to_text: !function utils.text\n"
        )

    def run(command, env, **_):
        options = dict(zip(command[3::2], command[4::2], strict=False))
        task, out = options["--tasks"], Path(options["--output_path"]) / "m"
        started.append(task.removeprefix("my_"))
        out.mkdir(exist_ok=True)
        stem = f"{len(list(out.iterdir())):08}_000000"
        scores = {f"{metric},none": 1.0 for metric in METRICS}
        (out / f"{stem}_results.json").write_text(json.dumps({"results": {task: scores}}))
        sample = {"doc_id": 0, "token_counts": [{"token_ratio": 1.0}]} | METRICS
        (out / f"{stem}_samples_{task}.jsonl").write_text(json.dumps(sample) + "\n")

    monkeypatch.setattr(suite, "subprocess", SimpleNamespace(run=run, STDOUT=None))
    few = partial(lmms_eval.tasks.TaskManager, include_defaults=False)  # the others take seconds
    monkeypatch.setattr(lmms_eval.tasks, "TaskManager", few)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def start(include_path: Path = folder) -> list[str]:
        settings = {
            "benchmarks": ["ChartQA", "TempCompass"],
            "prefix": "my_",
            "include_path": str(include_path),
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(settings))
        flags = ["--recipe", str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "out")]
        started.clear()
        main(["eval", "zipr1/tiny", "--suite", "paper", *flags])
        return started

    return start


def refusal(paper, capsys, *arguments) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit):
        paper(*arguments)
    return capsys.readouterr().err


def test_finished_tasks_are_not_taken_when_their_inputs_have_changed(tmp_path, paper, capsys):
    assert paper() == [*TASKS, *TASKS] and paper() == []
    moved = shutil.copytree(tmp_path / "tasks", tmp_path / "moved")
    assert paper(moved) == []  # the same tasks in another place
    changes = [
        ("chartqa.yaml", "generation_kwargs: {max_new_tokens: 4}\n", "chartqa", "task"),
        ("base.yaml", "generation_kwargs: {max_new_tokens: 4}\n", "chartqa", "task"),
        ("utils.py", "# scores otherwise\n", "chartqa", "task"),
        ("../data/more.parquet", "rows", "chartqa", "data"),
    ]
    for name, text, task, word in changes:
        path = moved / name
        before = path.read_text() if path.exists() else None
        path.write_text((before or "") + text)
        done = tmp_path / "out" / "Full" / task / "done.json"
        assert f"{done}: holds results of another {word};" in refusal(paper, capsys, moved)
        path.write_text(before) if before is not None else path.unlink()
        assert paper(moved) == []
    (tmp_path / "data" / "cache-1.arrow").touch()  # as `datasets` leaves them
    done.unlink()
    assert paper(moved) == ["chartqa"]


def test_a_judge_that_can_be_asked_since_is_asked(tmp_path, paper, capsys, monkeypatch):
    paper()
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    done = tmp_path / "out" / "Full" / TASKS[1] / "done.json"
    assert f"{done}: holds results of another judge;" in refusal(paper, capsys)
    for path in (tmp_path / "out").glob("*/tempcompass_*/done.json"):
        path.unlink()
    assert paper() == [*TASKS[1:], *TASKS[1:]]  # ChartQA has no judge


def test_results_of_a_version_that_did_not_record_the_inputs_are_refused(tmp_path, paper, capsys):
    paper()
    done = tmp_path / "out" / "Full" / "chartqa" / "done.json"
    found = json.loads(done.read_text())
    for name in ("task", "data"):
        del found["identity"][name]
    done.write_text(json.dumps(found))
    assert f"{done}: holds results of another task, data;" in refusal(paper, capsys)


def test_results_of_data_whose_revision_was_not_known_are_taken(tmp_path, paper):
    paper()
    done = tmp_path / "out" / "Full" / "chartqa" / "done.json"
    found = json.loads(done.read_text())
    found["identity"]["data"] = None
    done.write_text(json.dumps(found))
    assert paper() == []


def test_the_revision_of_a_data_set_on_the_hub(tmp_path, monkeypatch):
    revision, settings = "0123456789" * 4, {"dataset_path": "someone/data"}
    snapshot = tmp_path / "datasets--someone--data" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("rows")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (chartqa,) = (one for one in suite.SuiteConfig(benchmarks=["ChartQA"]).chosen)
    assert inputs_of(chartqa, settings)["data"] == {"revision": revision}
    for nowhere in ("someone/nothing", "/no/such/folder"):
        assert inputs_of(chartqa, settings | {"dataset_path": nowhere})["data"] is None
