"""TRL's SFTTrainer under the mixin, on the embedded model: rows of images, and of text alone."""

import pytest
import torch
from installed_trl import trl_or_skip

trl = trl_or_skip()

from conftest import random_model, tiny_processor  # noqa: E402
from datasets import Dataset  # noqa: E402

import zipr1  # noqa: E402
from zipr1.common.errors import InputError  # noqa: E402
from zipr1.data.processor import prepare  # noqa: E402
from zipr1.models.encode import encode  # noqa: E402
from zipr1.sparsity.context import sparse  # noqa: E402
from zipr1.sparsity.rules import TopP  # noqa: E402
from zipr1.tasks.shapes import Shapes  # noqa: E402
from zipr1.training.config import Ablation, TrainConfig  # noqa: E402
from zipr1.training.loss import sparse_rows  # noqa: E402
from zipr1.training.rollout import completion_states, pad_tokens  # noqa: E402
from zipr1.training.sampling import score_given  # noqa: E402
from zipr1.training.training_step import training_pass  # noqa: E402
from zipr1.trl import SparseSettings, SparseSFT  # noqa: E402
from zipr1.trl.sft import prompts_first  # noqa: E402

EXAMPLES = [Shapes().example("train", index) for index in range(4)]


def rows() -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": one.question}] for one in EXAMPLES],
            "completion": [[{"role": "assistant", "content": one.answer}] for one in EXAMPLES],
            "images": [[one.image] for one in EXAMPLES],
        }
    )


class Recording(SparseSFT, trl.SFTTrainer):
    """Keeps the weights, thresholds, loss and gradients of each step."""

    steps = ()

    def training_step(self, model, inputs, *more):
        before = {name: part.detach().clone() for name, part in model.named_parameters()}
        images = inputs["pixel_values"].clone()
        loss = super().training_step(model, inputs, *more)
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        self.steps = (*self.steps, (before, images, self.thresholds, loss.item(), gradients))
        return loss


def trained(folder, sparse=None, **options):
    model, processor = zipr1.load("zipr1/tiny")
    model.requires_grad_(True)
    model.model.visual.requires_grad_(False)
    options = {
        "per_device_train_batch_size": 4, "max_steps": 2, "gradient_checkpointing": False,
        "learning_rate": 1e-3, "bf16": False, "use_cpu": True, "report_to": "none",
        "logging_steps": 1, "save_strategy": "no", "output_dir": str(folder), "max_length": None,
        "optim": "adamw_torch", "disable_tqdm": True,
    } | options  # fmt: skip
    trainer = Recording(
        model=model, args=trl.SFTConfig(**options), train_dataset=rows(),
        processing_class=processor, sparse=sparse,
    )  # fmt: skip
    trainer.train()
    return trainer, [row for row in trainer.state.log_history if "loss" in row]


def order_of(images: torch.Tensor) -> list[int]:
    """The examples of a batch, which TRL has shuffled, by their images."""
    per_row = images.split(len(images) // len(EXAMPLES))
    found = []
    for part in per_row:
        for number, example in enumerate(EXAMPLES):
            pixels = prepare(tiny_processor(), [example])["pixel_values"]
            if torch.equal(pixels, part):
                found.append(number)
    return found


@pytest.mark.parametrize("scope", ["attention", "layer"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_two_steps_have_the_loss_and_gradients_of_given_completions(tmp_path, scope, checkpointing):
    """Our cross-entropy over all completion tokens, and the sparsity term, on the same thresholds."""
    settings = SparseSettings(sparsity_weight=10.0, scope=scope)
    trainer, logs = trained(tmp_path, settings, gradient_checkpointing=checkpointing)
    objective = TrainConfig(
        preset="paper", sparsity_weight=10.0, ablation=Ablation(choice_gradient=True)
    ).objective
    model, processor = zipr1.load("zipr1/tiny")
    model.requires_grad_(True)
    model.model.visual.requires_grad_(False)
    assert len(trainer.steps) == 2 and logs[0]["token_ratio"] < 0.9
    for step, (before, images, p, loss, gradients) in enumerate(trainer.steps):
        model.load_state_dict(before, strict=False)
        model.zero_grad()
        order = order_of(images)
        assert sorted(order) == [0, 1, 2, 3] and len(set(p)) > 1
        examples = [EXAMPLES[number] for number in order]
        tokenizer = processor.tokenizer
        ends = tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
        answers = [
            tokenizer.encode(one.answer, add_special_tokens=False) + ends for one in examples
        ]
        tokens, mask = pad_tokens(answers, 0, "cpu")
        encoded = encode(model, prepare(processor, examples))
        rollout = score_given(model, encoded, TopP(p), tokens=tokens, mask=mask, scope=scope)

        class Part:
            pass

        Part.rollout, Part.rollout_numbers = rollout, list(range(4 * step, 4 * step + 4))
        with sparse(
            model, TopP(p), scope=scope, prompt_length=rollout.prompt_length,
            training=training_pass(Part, objective),
        ) as trace:  # fmt: skip
            logprobs = completion_states(model, rollout).logprobs(tokens)
            expected = -(logprobs * mask).sum() / mask.sum()
            above = sparse_rows(Part) & (rollout.token_ratio > objective.target_ratio)
            expected = expected + 10.0 * (above * trace.relaxed_ratio).mean()
            expected.backward()
        assert loss == pytest.approx(expected.item(), rel=1e-4)
        mine = {n: part.grad for n, part in model.named_parameters() if part.grad is not None}
        difference = sum((gradients[name] - mine[name]).square().sum() for name in mine).sqrt()
        size = sum(part.square().sum() for part in mine.values()).sqrt()
        assert size > 0.01 and difference < 1e-3 * size, (difference, size)


def test_dense_rows_have_the_loss_of_trl_itself(tmp_path):
    trainer, logs = trained(tmp_path / "sparse", SparseSettings(dense_share=1.0))
    plain = trl.SFTTrainer(
        model=trainer.model, args=trainer.args, train_dataset=rows(),
        processing_class=tiny_processor(),
    )  # fmt: skip
    before, *_ = trainer.steps[0]
    plain.model.load_state_dict(before, strict=False)
    plain.train()
    theirs = [row["loss"] for row in plain.state.log_history if "loss" in row]
    assert [row["loss"] for row in logs] == pytest.approx(theirs, rel=1e-4)
    assert all(row["token_ratio"] == 1 for row in logs)


class Text(SparseSFT, trl.SFTTrainer):
    """Keeps the thresholds of each batch."""

    def training_step(self, *arguments):
        loss = super().training_step(*arguments)
        self.drawn = [*getattr(self, "drawn", []), *self.thresholds]
        return loss


def trained_on_text(folder, rows: dict, **options) -> Text:
    trainer = Text(
        model=random_model("qwen2"), processing_class=tiny_processor().tokenizer,
        train_dataset=Dataset.from_dict(rows), sparse=SparseSettings(sparsity_weight=100.0),
        args=trl.SFTConfig(
            max_steps=1, bf16=False, use_cpu=True, report_to="none", logging_steps=1,
            save_strategy="no", output_dir=str(folder), **options,
        ),
    )  # fmt: skip
    trainer.train()
    return trainer


def test_accumulated_steps_weigh_the_sparsity_term_as_one(tmp_path):
    """A Qwen-VL model leaves the division by their number to the trainer, a text model does not."""
    settings = SparseSettings(sparsity_weight=10.0)
    one, logs = trained(tmp_path / "one", settings, max_steps=1)
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    four, others = trained(tmp_path / "four", settings, max_steps=1, **parts)
    assert logs[0]["loss"] == pytest.approx(others[0]["loss"], rel=0.1) and logs[0]["loss"] > 3
    drawn = [p for _, _, thresholds, _, _ in four.steps for p in thresholds]
    assert len(one.steps) == 1 and len(drawn) == 4 and len(set(drawn)) > 1
    words = " ".join(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"] * 3
    )
    rows = {"prompt": [words] * 4, "completion": [" yes"] * 4}
    one = trained_on_text(tmp_path / "text", rows, per_device_train_batch_size=4)
    four = trained_on_text(tmp_path / "texts", rows, **parts)
    losses = [trainer.state.log_history[0]["loss"] for trainer in (one, four)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1) and losses[0] > 30
    assert len(four.drawn) == 4 and len(set(four.drawn)) > 1


def test_text_rows_and_prompts_of_unequal_length(tmp_path):
    rows = {"prompt": ["one two three four five", "one"], "completion": [" six", " two three"]}
    trainer = trained_on_text(tmp_path, rows, per_device_train_batch_size=2)
    assert 0 < trainer.state.log_history[0]["token_ratio"] <= 1


def test_prompts_come_first_and_end_together():
    batch = {
        "input_ids": torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
        "labels": torch.tensor([[-100, -100, -100, 4, 5], [-100, 7, -100, 9, -100]]),
    }
    moved, length = prompts_first(batch, pad=99)
    assert length == 3
    assert moved["input_ids"].tolist() == [[1, 2, 3, 4, 5, 99], [99, 99, 6, 7, 8, 9]]
    assert moved["labels"].tolist() == [[-100] * 3 + [4, 5, -100], [-100] * 3 + [7, -100, 9]]
    assert moved["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]]
    with pytest.raises(InputError, match="a row has labels from its first token on"):
        prompts_first(batch | {"labels": batch["input_ids"]}, pad=99)
    with pytest.raises(InputError, match="set packing and padding_free off"):
        prompts_first({"input_ids": batch["input_ids"]}, pad=99)


def test_packing_is_refused(tmp_path):
    with pytest.raises((InputError, ValueError), match="pack"):
        trained(tmp_path, SparseSettings(), packing=True)
