"""The plugin through lmms-eval's own command, on fixtures of the thirteen benchmarks."""

import json
import os
import subprocess
import sys

import lmms_fixtures
import pytest
import torch
from conftest import family_processor, random_model

from zipr1.data.media import read_video
from zipr1.data.processor import tensors
from zipr1.evaluation.lmms_settings import generation_settings
from zipr1.evaluation.paper.benchmarks import BENCHMARKS
from zipr1.evaluation.paper.scores import total, units
from zipr1.models.loading import load_vision
from zipr1.models.saving import save
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP

P = 0.9
TWO = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmms")
    return folder, os.environ | lmms_fixtures.write(folder) | {
        "ACCELERATE_USE_CPU": "true"
    }  # for several processes


def lmms_eval(
    fixtures,
    tasks: list[str],
    model: str,
    arguments: str,
    out: str,
    *more: str,
    launcher: tuple = (),
) -> tuple:
    """Runs the command; returns results.json and the samples of each task."""
    folder, environment = fixtures
    names = ",".join(f"fixture_{task}" for task in tasks)
    command = [
        sys.executable,
        "-m",
        *launcher,
        "lmms_eval",
        "--model",
        model,
        "--model_args",
        arguments,
        "--tasks",
        names,
    ]
    command += [
        "--include_path",
        str(folder / "tasks"),
        "--device",
        "cpu",
        "--log_samples",
        "--output_path",
        str(folder / out),
    ]
    run = subprocess.run(
        [*command, *more], env=environment, capture_output=True, text=True, cwd=folder
    )
    files = list((folder / out).rglob("[0-9]*_results.json"))
    assert len(files) == 1, (
        run.stdout[-3000:] + run.stderr[-3000:]
    )  # lmms-eval exits 0 also when it failed
    samples = {
        task: [
            json.loads(line)
            for path in files[0].parent.glob(f"*_samples_fixture_{task}.jsonl")
            for line in path.open()
        ]
        for task in tasks
    }
    return json.loads(files[0].read_text()), samples


@torch.no_grad()
def alone(
    images: list, clips: list, question: str, new_tokens: int, name="zipr1/tiny"
) -> tuple[str, float]:
    """The answer to one question and its token ratio, without lmms-eval."""
    model, processor = load_vision(name)
    media = [{"type": "image"}] * len(images) + [{"type": "video"}] * len(clips)
    chat = [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]
    inputs = tensors(processor, [chat], images, clips)
    with sparse(model, TopP(P)) as trace:
        out = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    new = out[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(new, skip_special_tokens=True)[0], trace.token_ratio.item()


def test_pictures_and_clips_in_batches_answer_as_alone(fixtures):
    tasks = ["mme", "mmstar", "mmmu_pro_standard", "videomme", "egoschema_subset"]
    arguments = f"pretrained=zipr1/tiny,method=zipvl,p={P},max_frames=4"
    results, samples = lmms_eval(
        fixtures, tasks, "zipr1", arguments, "batches", "--batch_size", "3"
    )
    assert {task: len(rows) for task, rows in samples.items()} == dict.fromkeys(tasks, 2) | {
        "mme": 4
    }
    ratios = {}
    for task, rows in samples.items():
        counts = [row["token_counts"][0] for row in rows]
        ratios[task] = sum(count["token_ratio"] for count in counts) / len(counts)
        assert all(0 < count["token_ratio"] < 1 and count["output_tokens"] > 0 for count in counts)
        assert results["throughput"][f"avg_token_ratio/fixture_{task}"] == pytest.approx(
            ratios[task]
        )
    assert results["throughput"]["avg_token_ratio"] == pytest.approx(
        sum(ratios.values()) / len(tasks)
    )
    media = {
        task: [row["token_counts"][0]["medium"] for row in rows] for task, rows in samples.items()
    }
    assert media["videomme"] == media["egoschema_subset"] == ["v.mp4", "v.mp4"]
    red, blue = media["mmstar"]
    assert red != blue and media["mme"] == 4 * [red]  # the same picture, wherever it is asked about
    assert (
        len({*media["mmmu_pro_standard"]}) == 2 and media["mmmu_pro_standard"][0].split()[0] == red
    )

    folder, _ = fixtures
    frames = read_video(folder / "hf" / "egoschema" / "videos" / "v.mp4", 4)
    for colour, row in zip(("red", "blue"), samples["mmstar"], strict=True):
        assert row["input"].startswith("What colour is the disc?")
        text, ratio = alone([lmms_fixtures.picture(colour)], [], row["input"], 16)
        assert (row["filtered_resps"], row["token_counts"][0]["token_ratio"]) == (
            text,
            pytest.approx(ratio, abs=1e-6),
        )
    for row in samples["egoschema_subset"]:
        text, ratio = alone([], [frames], row["input"], 16)
        assert (row["filtered_resps"], row["token_counts"][0]["token_ratio"]) == (
            text,
            pytest.approx(ratio, abs=1e-6),
        )


def test_a_broken_clip_stops_the_task_and_is_named(fixtures):
    folder, environment = fixtures
    path = folder / "hf" / "mlvu" / "v.mp4"
    whole = path.read_bytes()
    path.write_bytes(b"no clip")
    command = [
        sys.executable,
        "-m",
        "lmms_eval",
        "--model",
        "zipr1",
        "--tasks",
        "fixture_mlvu_dev",
        "--device",
        "cpu",
    ]
    run = subprocess.run(
        [*command, "--include_path", str(folder / "tasks")],
        env=environment,
        capture_output=True,
        text=True,
        cwd=folder,
    )
    path.write_bytes(whole)
    assert "v.mp4: a text file" in run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_the_other_families(fixtures, tmp_path, family):
    """Small random models of theirs: pictures, several of them, and clips answer as alone."""
    save(random_model(family), family_processor(family), tmp_path)
    tasks = ["mmstar", "mmmu_pro_standard", "egoschema_subset"]
    arguments = f"pretrained={tmp_path},method=zipvl,p={P},max_frames=4"
    _, samples = lmms_eval(fixtures, tasks, "zipr1", arguments, family, "--batch_size", "2")
    frames = read_video(fixtures[0] / "hf" / "egoschema" / "videos" / "v.mp4", 4)
    for i, colour in enumerate(("red", "blue")):
        picture = lmms_fixtures.picture(colour)
        for task, pictures, clips in (
            ("mmstar", [picture], []),
            ("egoschema_subset", [], [frames]),
        ):
            row = samples[task][i]
            counts = row["token_counts"][0]
            text, ratio = alone(
                pictures, clips, row["input"], counts["output_tokens"], tmp_path
            )  # it never ends by itself
            assert row["filtered_resps"] == text.strip() and 0 < ratio < 1
            assert counts["token_ratio"] == pytest.approx(ratio, abs=1e-6)
        assert 0 < samples["mmmu_pro_standard"][i]["token_counts"][0]["token_ratio"] < 1


@pytest.mark.slow
def test_an_error_of_one_process_ends_them_all(fixtures):
    """Of any kind: the second process misses a video, and the task leaves by sys.exit; those of
    the first one are all there."""
    folder, environment = fixtures
    clip = folder / "hf" / "video_mmmu" / "Art" / "validation_Art_1.mp4"
    away = clip.rename(clip.with_suffix(".away"))
    command = [sys.executable, "-m", *TWO, "lmms_eval"]
    command += [
        "--model",
        "zipr1",
        "--model_args",
        "pretrained=zipr1/tiny,max_frames=4",
        "--output_path",
        str(folder / "ended"),
    ]
    command += [
        "--tasks",
        "fixture_video_mmmu_perception",
        "--include_path",
        str(folder / "tasks"),
        "--device",
        "cpu",
    ]
    try:
        run = subprocess.run(
            command, env=environment, capture_output=True, text=True, cwd=folder, timeout=300
        )
    finally:
        away.rename(clip)
    said = run.stdout + run.stderr
    assert "validation_Art_1.mp4 does not exist" in said and run.returncode != 0, said[-3000:]
    assert "RuntimeError: process 1: SystemExit(" in said, said[
        -3000:
    ]  # the first one has heard of it
    assert not list((folder / "ended").rglob("*_results.json"))


def test_generation_settings_of_a_task():
    greedy = {
        "max_new_tokens": 16,
        "temperature": 0,
        "top_p": 1.0,
        "num_beams": 1,
        "do_sample": False,
        "until": ["\n\n"],
    }
    assert generation_settings(greedy, "t") == {
        "max_new_tokens": 16,
        "num_beams": 1,
        "do_sample": False,
    }
    assert generation_settings({}, "t") == {"max_new_tokens": 128, "do_sample": False}
    sampled = {"max_new_tokens": 8, "temperature": 0.7, "top_p": 0.9}
    assert generation_settings(sampled, "t") == {
        "max_new_tokens": 8,
        "temperature": 0.7,
        "top_p": 0.9,
        "do_sample": True,
    }


# By hand, from lmms_fixtures.TASKS: what the answer "A" to every question is worth.
ANSWER_A = {
    "mmbench_en_dev_static": ("gpt_eval_score", 50),
    "mmstar": ("average", 0.5),
    "mmmu_pro_standard": ("mmmu_acc", 0.5),
    "mmmu_pro_vision": ("mmmu_acc", 0.5),
    "videomme": ("videomme_perception_score", 50),
    "mlvu_dev": ("mlvu_percetion_score", 50),
    "videomme_w_subtitle": ("videomme_perception_score", 50),
    "video_mmmu_perception": ("mmmu_acc", 0.5),
    "video_mmmu_comprehension": ("mmmu_acc", 0.5),
    "video_mmmu_adaptation": ("mmmu_acc", 0.5),
    "perceptiontest_val_mc": ("accuracy", 0.5),
    "egoschema_subset": ("score", 0.5),
    "tempcompass_multi_choice": ("avg_accuracy", 60),
    "tempcompass_caption_matching": ("avg_accuracy", 60),
}
# The answer "yes": one of two questions about an image is half the accuracy and none of the pairs
# (MME); 3 of 5 dimensions.
ANSWER_YES = {
    "mme": ("mme_perception_score", 50),
    "chartqa": ("relaxed_overall", 0.5),
    "textvqa_val": ("exact_match", 0.5),
    "ocrbench": ("ocrbench_accuracy", 0.001),
    "tempcompass_yes_no": ("avg_accuracy", 60),
}


@pytest.mark.slow
@pytest.mark.parametrize(("response", "expected"), [("A", ANSWER_A), ("yes", ANSWER_YES)])
def test_the_scores_of_known_answers(fixtures, response, expected):
    assert {*ANSWER_A, *ANSWER_YES} == {*lmms_fixtures.TASKS}
    results, samples = lmms_eval(
        fixtures, list(expected), "dummy", f"response={response}", f"known_{response}"
    )
    found = {task: results["results"][f"fixture_{task}"] for task in expected}
    assert {
        task: found[task][f"{metric},none"] for task, (metric, _) in expected.items()
    } == pytest.approx({task: score for task, (_, score) in expected.items()})
    # What `paper.scores` makes of the samples is what lmms-eval made of them.
    for benchmark in BENCHMARKS:
        for score in benchmark.scores:
            if score.task in expected:
                rows = [
                    row | {"media": row["doc_id"]} for row in samples[score.task]
                ]  # of a model that tells none
                again = total(score, units(score, rows))
                assert again == pytest.approx(
                    score.unit * found[score.task][f"{score.metric},none"]
                ), score


@pytest.mark.slow
def test_all_nineteen_tasks_end_to_end(fixtures):
    tasks = list(lmms_fixtures.TASKS)
    assert len(tasks) == 19
    results, samples = lmms_eval(
        fixtures, tasks, "zipr1", "method=zipvl,max_frames=4", "all", "--batch_size", "4"
    )
    rows = {task: len(entry[3]) for task, entry in lmms_fixtures.TASKS.items()}
    assert {task: len(found) for task, found in samples.items()} == rows
    assert {f"avg_token_ratio/fixture_{task}" for task in tasks} <= set(results["throughput"])


@pytest.mark.slow
def test_two_processes_share_the_questions(fixtures):
    arguments = f"pretrained=zipr1/tiny,method=zipvl,p={P},max_frames=4"
    answers = []
    for out, how in (("one", ()), ("two", TWO)):
        results, samples = lmms_eval(
            fixtures, ["mme", "mlvu_dev"], "zipr1", arguments, out, launcher=how
        )
        rows = {
            task: sorted((row["doc_id"], row["filtered_resps"]) for row in found)
            for task, found in samples.items()
        }
        answers.append((rows, results["throughput"]["avg_token_ratio"]))
    assert answers[0][0] == answers[1][0] and answers[0][1] == pytest.approx(answers[1][1])
