"""The file of answers and generation settings, through lmms-eval's own entry point."""

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageColumn
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.evaluation.lmms_model import ZipR1
from zipr1.evaluation.lmms_vllm import generate_in_vllm

GREEDY = "{max_new_tokens: 4}"
YAML = """
task: mini
dataset_path: {folder}/data{number}
dataset_kwargs: {{load_from_disk: true}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
lmms_eval_specific_kwargs: {{default: {{post_prompt: "{prompt}"}}}}
generation_kwargs: {settings}
repeats: {repeats}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
CODE = """
def visual(doc): return [doc["image"].convert("RGB") if doc["image"] else doc["video"]]
def text(doc, lmms_eval_specific_kwargs): return "Name it." + lmms_eval_specific_kwargs["post_prompt"]
"""


def video(path: Path, colour: str) -> str:
    frames = [Image.new("RGB", (96, 96), name) for name in ("white", colour)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=500)
    return str(path)


def write(folder: Path, settings=GREEDY, prompt="", repeats=1, colour="blue") -> None:
    """A task with two images, the second in `colour`, and a video."""
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "utils.py").write_text(CODE)
    number = len(list(folder.glob("data*")))  # a data set cannot be written over
    rows = [
        {"image": Image.new("RGB", (96, 96), "red"), "video": None, "answer": "red"},
        {"image": Image.new("RGB", (96, 96), colour), "video": None, "answer": colour},
        {"image": None, "video": str(folder / "v.gif"), "answer": "red"},
    ]
    types = {"image": ImageColumn(), "video": Value("string"), "answer": Value("string")}
    data = Dataset.from_list(rows, features=Features(types))
    DatasetDict({"test": data}).save_to_disk(folder / f"data{number}")
    (tasks / "mini.yaml").write_text(
        YAML.format(folder=folder, number=number, settings=settings, prompt=prompt, repeats=repeats)
    )


def answers(folder: Path, gen_kwargs: str = "", **more) -> list[list[str]]:
    """The responses to each question."""
    found = simple_evaluate(
        "zipr1",
        f"pretrained=zipr1/tiny,method=full,max_frames=2,answers={folder}/answers.jsonl",
        tasks=["mini"],
        task_manager=TaskManager("ERROR", str(folder / "tasks"), False, "zipr1"),
        batch_size=1,
        device="cpu",
        bootstrap_iters=0,
        gen_kwargs=gen_kwargs,
        **more,
    )
    return [responses for sample in found["samples"]["mini"] for responses in sample["resps"]]


def marked(answers: str) -> str:
    """The content of a file with answers that can be recognised."""
    header, *lines = answers.splitlines()
    kept = [json.dumps(json.loads(line) | {"text": "kept"}) for line in lines]
    return "\n".join([header, *kept, ""])


def test_only_answers_to_the_same_requests_are_taken(tmp_path, capsys):
    animation, file = tmp_path / "v.gif", tmp_path / "answers.jsonl"
    video(animation, "red")
    write(tmp_path)
    answers(tmp_path)
    kept = marked(file.read_text())
    changes = [
        (lambda: None, "", [True, True, True]),
        (lambda: None, "until=red", [True, True, True]),  # which is not used
        (lambda: None, "max_new_tokens=2", [False, False, False]),
        (lambda: None, "temperature=1.5", [False, False, False]),
        (lambda: write(tmp_path, prompt=" In one word."), "", [False, False, False]),
        (lambda: write(tmp_path, colour="green"), "", [True, False, True]),
        (lambda: video(animation, "green"), "", [True, True, False]),
    ]
    for change, gen_kwargs, expected in changes:
        file.write_text(kept)
        write(tmp_path)
        change()
        capsys.readouterr()
        found = answers(tmp_path, gen_kwargs)
        assert [responses == ["kept"] for responses in found] == expected, (gen_kwargs, found)
        told = capsys.readouterr().err.count("such questions are answered anew")
        assert told == (not all(expected))


def test_repeats_stay_apart_also_when_a_run_was_killed_between_them(tmp_path):
    video(tmp_path / "v.gif", "red")
    write(tmp_path, "{max_new_tokens: 4, temperature: 9.0}", repeats=3)
    first = answers(tmp_path)
    assert [len(set(responses)) for responses in first] == [3, 3, 3]
    assert answers(tmp_path) == first
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    assert answers(tmp_path) == first
    assert answers(tmp_path, torch_random_seed=7) != first


@pytest.mark.parametrize(
    ("given", "gen_kwargs", "expected"),
    [
        ("{max_new_tokens: null, top_k: null}", "", {"max_new_tokens": 128, "do_sample": False}),
        (GREEDY, "do_sample=true", {"max_new_tokens": 4, "do_sample": True, "temperature": 1.0}),
        (GREEDY, "do_sample=true,temperature=0", {"max_new_tokens": 4, "do_sample": False}),
        (
            "{max_new_tokens: 4, repetition_penalty: 1.2, image_aspect_ratio: pad}",
            "num_beams=2",
            {
                "max_new_tokens": 4,
                "do_sample": False,
                "num_beams": 2,
                "repetition_penalty": 1.2,
            },
        ),
    ],
)
def test_generation_settings_reach_generate(tmp_path, monkeypatch, given, gen_kwargs, expected):
    video(tmp_path / "v.gif", "red")
    write(tmp_path, given)
    seen, generate = [], ZipR1.generate

    def watched(self, inputs, settings):
        seen.append(settings)
        return generate(self, inputs, settings)

    monkeypatch.setattr(ZipR1, "generate", watched)
    answers(tmp_path, gen_kwargs, limit=1)
    assert seen == [expected]


@pytest.mark.parametrize(
    "other", [{"do_sample": True}, {"num_beams": 2}, {"repetition_penalty": 2}]
)
def test_vllm_refuses_what_is_not_greedy(other):
    settings = {"max_new_tokens": 4, "do_sample": False} | other
    with pytest.raises(InputError, match="answers greedily"):
        generate_in_vllm(None, (), None, "layer", settings)


@pytest.mark.parametrize(
    ("given", "gen_kwargs", "fault"),
    [
        (GREEDY, "repetition_penality=1.2", "mini: repetition_penality=1.2 "),
        ("{max_gen_toks: 4}", "", "mini: max_gen_toks=4 "),
        (GREEDY, "num_return_sequences=2", "mini: num_return_sequences=2 "),
        (GREEDY, "temperature=hot", "mini: temperature='hot' "),
        (GREEDY, "temperature=-1", "mini: temperature=-1.0 "),
    ],
)
def test_settings_that_are_not_used_are_refused(tmp_path, given, gen_kwargs, fault):
    write(tmp_path, given)
    with pytest.raises(InputError, match=re.escape(fault) + ".*(leave it out|must be a number)"):
        answers(tmp_path, gen_kwargs)
