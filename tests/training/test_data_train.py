"""Training on rows of data sets: what is read when, what answers earn, what cannot be used."""

import json
import shutil

import data_rows
import pytest
import torch
from conftest import random_model, tiny_processor
from data_rows import GENERAL, PUBLISHED, published, video_r1, write
from transformers import AutoProcessor

from zipr1.common.errors import RunError
from zipr1.data.rows import open_rows
from zipr1.training.config import TrainConfig
from zipr1.training.modes import DataRows
from zipr1.training.questions import Questions
from zipr1.training.rollout import Rollout
from zipr1.training.train import train

cache, root = data_rows.cache, data_rows.root  # fixtures


def test_what_is_read_ahead_is_what_is_asked_for(root):
    """Rows of the next step are read while this one runs; a run that starts there reads the same. Nothing beyond the last."""
    file = write(
        root / "rows.json",
        [GENERAL[i % 4] | {"id": i} for i in range(5)] + [{"prompt": "?", "answer": None, "id": 5}],
    )
    config = TrainConfig(data=file, probe_data=file, prompts_per_step=4, max_steps=3, max_frames=4)
    questions = Questions(config, tiny_processor(), 4096)
    steps = [questions.read(range(4 * step, 4 * step + 4), step) for step in range(2)]
    assert sorted(questions.coming) == [8, 9, 10, 11]
    last = questions.read(range(8, 12), 2)
    assert (
        not questions.coming
        and sum("row 5" in reason for reason in questions.failed) == len(questions.failed) == 2
    )
    assert sorted(
        example.id for _, examples, _ in (*steps, last) for example in examples
    ) == sorted("0123401234")
    resumed = Questions(config, tiny_processor(), 4096).read(range(8, 12), 2)
    assert resumed[0] == last[0] and [one.id for one in resumed[1]] == [one.id for one in last[1]]
    assert all(
        (one["input_ids"] == other["input_ids"]).all()
        for one, other in zip(resumed[2], last[2], strict=True)
    )


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"data": "none.jsonl"}, "none.jsonl"),
        ({"probe_data": "none.jsonl"}, "none.jsonl"),
        ({"columns": "solution=nothing"}, "no column .nothing"),
        ({"media_root": "elsewhere"}, "elsewhere.*no such file"),
    ],
)
def test_data_is_opened_before_the_model(root, wrong, word):
    """Loading a model may take minutes. This one does not exist, which the last line shows."""
    data = write(root / "rows.jsonl", [GENERAL[0]])
    settings = {"data": data, "probe_data": data, "output_dir": str(root / "out")}
    settings |= {"model": str(root / "missing")}
    with pytest.raises(ValueError, match=word):
        train(TrainConfig(**settings | wrong), quiet=True)
    with pytest.raises(ValueError, match="missing"):
        train(TrainConfig(**settings), quiet=True)


SAID = [  # of each row of PUBLISHED what is right, what is not, and the grade of that
    ("A", "B. blue", 0.0),
    ("B) right", "A", 0.0),
    ("1234.50", "1234.6", 0.0),
    ("STOP AHEAD", "GO RIGHT", 0.0),
    ("A red ball.", "the red bus", (1 / 3 + 1 / 3 + 0) / 3),
    ("<answer>2.5</answer>", "2.0", 0.8),
]


@pytest.mark.parametrize("graded", [False, True])
def test_rows_of_every_type_earn_what_their_answers_are_worth(root, graded):
    """Through the function that the trainer calls, on tokens."""
    rows = open_rows(video_r1(root), max_frames=2)
    processor = tiny_processor()
    texts = [text for right, wrong, _ in SAID for text in (right, wrong)]
    batch = processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    tokens, mask = batch["input_ids"], batch["attention_mask"].bool()
    rollout = Rollout(
        embeds={}, prompt_ids=tokens, p=(1.0,) * 12, tokens=tokens, mask=mask, clipped=~mask[:, -1], kept=[],
        logprobs=torch.zeros(tokens.shape), token_ratio=torch.full((12,), 0.25), temperature=1.0, suppress=[],
    )  # fmt: skip
    mode = DataRows(TrainConfig(graded=graded), processor)
    got = mode.rewards([rows.example(i) for i in range(6)], rollout, 0)
    torch.testing.assert_close(
        got.accuracy, torch.tensor([[1.0, grade * graded] for _, _, grade in SAID])
    )
    assert (got.efficiency == 0.75).all() and not got.unparsable.any()


SMALL = {
    "prompts_per_step": 6,
    "num_generations": 2,
    "max_steps": 2,
    "probe_per_task": 3,
    "max_completion_length": 4,
}


def test_training_on_rows_of_every_kind(root):
    """Pictures, clips and text in one batch, a broken file among them: counted, named, and nothing in its place."""
    (root / "broken.png").write_bytes(b"no picture")
    probe = write(root / "probe.json", [published(i, *row) for i, row in enumerate(PUBLISHED)])
    data = video_r1(
        root,
        published(7, "image", "OCR", [], "x", "broken.png"),
        {**published(8, "text", *PUBLISHED[0][1:4], "")},
    )
    out = root / "out"
    settings = SMALL | {
        "data": data,
        "probe_data": probe,
        "output_dir": str(out),
        "graded": True,
        "max_pixels": 4096,
    }
    settings |= {"baseline": "group", "save_steps": 1}
    train(TrainConfig(**settings), quiet=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert "probe/accuracy" in rows[0] and "probe/token_ratio" in rows[2]
    failed = list(map(json.loads, (out / "failed-rows-0.jsonl").open()))
    assert [row["failed_rows"] for row in rows[1:]] == [
        sum(one["step"] == step for one in failed) for step in (1, 2)
    ]
    assert rows[2]["failed_rows"] and all(
        "row 7" in one["reason"] and "broken.png" in one["reason"] for one in failed
    )
    assert AutoProcessor.from_pretrained(out / "final").image_processor.size["longest_edge"] == 4096
    shutil.rmtree(out / "final")  # killed after step 2, whose rows are read again
    train(TrainConfig(**settings, resume=True), quiet=True)
    assert list(map(json.loads, (out / "failed-rows-0.jsonl").open())) == failed


@pytest.mark.parametrize("preset", ["exact", "paper"])
def test_training_with_a_users_reward(root, monkeypatch, preset):
    """Also that the reference answers only where its answers are of use: they take as long as the rollouts; and that what it is
    worth, and what is said of it, is not among what is said of the rollouts."""
    monkeypatch.chdir(root)
    (root / "mine.py").write_text(
        "def level(completions, level, trainer_state, log_extra, log_metric, **columns):\n"
        "    log_extra('twice', [2 * one for one in level])\n"
        "    log_extra('prompt', level)\n"  # the table's own stays
        "    log_metric('done', trainer_state.global_step / trainer_state.max_steps)\n"
        "    log_metric('answers', len(completions))\n"
        "    return [float(one) for one in level]\n"
        "def last(completions, trainer_state, **columns):\n"
        "    return [float(trainer_state.global_step == trainer_state.max_steps)] * len(completions)\n"
    )
    rows = [{"prompt": "Say a word.", "answer": "word", "level": i % 2} for i in range(12)]
    data = write(root / "text.jsonl", rows)
    settings = SMALL | {"data": data, "probe_data": data, "output_dir": str(root / "out")}
    settings |= {"reward_function": "mine:level, 4*mine:last"}
    train(TrainConfig(**settings, preset=preset), quiet=True)
    metrics = [json.loads(line) for line in (root / "out" / "metrics.jsonl").open()]
    both = metrics[1]["rewards/accuracy"] + metrics[2]["rewards/accuracy"]
    assert both == pytest.approx(1.0)  # all twelve rows, half at level 1
    for step in (1, 2):
        mean = metrics[step]["rewards/level/mean"]
        assert (
            mean == pytest.approx(metrics[step]["rewards/accuracy"])
            and metrics[step]["rewards/last/mean"] == 0
        )
        assert metrics[step]["rewards/level/std"] == pytest.approx((mean * (1 - mean)) ** 0.5)
        assert metrics[step]["done"] == (step - 1) / 2 and metrics[step]["answers"] == 12
    assert [row["probe/accuracy"] for row in (metrics[0], metrics[2])] == [
        1,
        1,
    ]  # always as after the last step
    samples = list(map(json.loads, (root / "out" / "samples.jsonl").open()))
    assert len(samples) == 8 and {row["prompt"] for row in samples} == {"Say a word."}
    assert all(row["twice"] == 2 * row["level"] == 2 * row["rewards/accuracy"] for row in samples)
    for name in ("reference_accuracy", "governor/gap/exact"):
        assert (name in metrics[1]) == (preset == "exact")


def test_a_metric_of_a_name_that_is_taken(root, monkeypatch):
    monkeypatch.chdir(root)
    code = "def calm(completions, log_metric, **columns):\n    log_metric('loss', 0)\n    return [1.0] * len(completions)\n"
    (root / "calm.py").write_text(code)
    data = write(
        root / "text.jsonl", [{"prompt": "Say a word.", "answer": "word"} for _ in range(6)]
    )
    settings = SMALL | {
        "data": data,
        "probe_data": data,
        "output_dir": str(root / "out"),
        "reward_function": "calm:calm",
    }
    with pytest.raises(ValueError, match="log_metric: loss: zipr1's own"):
        train(TrainConfig(**settings), quiet=True)


def test_training_on_given_completions(root):
    """A text model, prompts as they are, the completions of the data: no sampling; KL and token ratio fall."""
    random_model("llama").save_pretrained(root / "model")
    tiny_processor().tokenizer.save_pretrained(root / "model")
    text = "the way that a word is kept by the model is what it holds of the text before it "
    rows = [{"prompt": text[4 * i :] * 6, "completion": text[:24]} for i in range(8)]
    data = write(root / "text.jsonl", rows)
    settings = {
        "data": data,
        "probe_data": data,
        "completions": "given",
        "chat_template": False,
        "probe_per_task": 8,
    }
    settings |= {
        "reward_weight": 0.0,
        "gate": "none",
        "governed": False,
        "sparsity_weight": 20.0,
        "learning_rate": 3e-3,
    }
    settings |= {
        "prompts_per_step": 4,
        "num_generations": 2,
        "max_steps": 12,
        "max_completion_length": 8,
    }
    train(
        TrainConfig(
            **settings, model=str(root / "model"), output_dir=str(root / "out"), decay_share=0.1
        ),
        quiet=True,
    )
    metrics = [json.loads(line) for line in (root / "out" / "metrics.jsonl").open()]
    assert metrics[-1]["probe/token_ratio"] < metrics[0]["probe/token_ratio"] - 0.05
    assert metrics[1]["completions/mean_length"] > 3
    assert metrics[0]["probe/logprob"] < 0 and metrics[0]["probe/full_logprob"] < 0
    with pytest.raises(ValueError, match="completions=given"):
        TrainConfig(**settings | {"gate": "answer"})


def test_rows_that_cannot_be_used_stop_the_run(root):
    """No untrained model comes out of it."""
    rows = [{"prompt": "Say a word.", "answer": "word", "problem_type": "golf"}] * 8
    data, out = write(root / "golf.jsonl", rows), root / "out"
    probe = write(root / "probe.jsonl", [{"prompt": "Say a word.", "answer": "word"}])
    settings = SMALL | {"max_steps": 9, "data": data, "probe_data": probe, "output_dir": str(out)}
    with pytest.raises(RunError, match="2 steps in a row in which a process had no usable row"):
        train(TrainConfig(**settings, max_skipped_steps=1), quiet=True)
    assert "golf" in (out / "failed-rows-0.jsonl").read_text() and not (out / "final").exists()


def test_probe_rows_that_cannot_be_used_stop_the_run_at_once(root):
    """As docs/guides/data.md says: the probe set is the same for the whole run."""
    data = write(root / "right.jsonl", [{"prompt": "Say a word.", "answer": "word"}] * 8)
    settings = SMALL | {"max_steps": 1, "data": data, "output_dir": str(root / "out")}
    never = {"prompt": "A or B?", "answer": "x", "problem_type": "multiple choice"}
    with pytest.raises(ValueError, match="its own answer 'x' is not accepted as multiple choice"):
        train(TrainConfig(**settings, probe_data=write(root / "never.jsonl", [never])), quiet=True)
    with pytest.raises(ValueError, match=r"a prompt of \d+ tokens, above 5"):
        train(TrainConfig(**settings, probe_data=data, max_prompt_length=5), quiet=True)
    assert not (root / "out" / "metrics.jsonl").exists()
