"""TRL's GRPOTrainer under the mixin, on the embedded model: real rollouts, losses and gradients."""

import json

import pytest
import torch
from installed_trl import trl_or_skip

trl = trl_or_skip()

from datasets import Dataset  # noqa: E402

import zipr1  # noqa: E402
from zipr1.common.errors import InputError  # noqa: E402
from zipr1.data.example import Example  # noqa: E402
from zipr1.models.encode import encode  # noqa: E402
from zipr1.rewards.reward import Reward  # noqa: E402
from zipr1.sparsity.context import sparse  # noqa: E402
from zipr1.sparsity.rules import TopP  # noqa: E402
from zipr1.tasks.shapes import Shapes  # noqa: E402
from zipr1.training.config import Ablation, TrainConfig  # noqa: E402
from zipr1.training.experience import Experience  # noqa: E402
from zipr1.training.grpo import Governor  # noqa: E402
from zipr1.training.loss import losses  # noqa: E402
from zipr1.training.reference import score_rollouts  # noqa: E402
from zipr1.training.rollout import Rollout, completion_states  # noqa: E402
from zipr1.training.training_step import training_pass  # noqa: E402
from zipr1.trl import SparseGRPO, SparseSettings, efficiency  # noqa: E402

PROMPTS, GROUP, LENGTH = 2, 4, 4
TEMPERATURE = 4.0  # the embedded model is sure of its answers


def correct(completions, answer, **columns) -> list[float]:
    """Some of each group, so that advantages and the gate differ within it."""
    return [float(len(one[0]["content"]) % 2 == 0) for one in completions]


def rows(count: int) -> Dataset:
    examples = [Shapes().example("train", index) for index in range(count)]
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": one.question}] for one in examples],
            "image": [one.image for one in examples],
            "answer": [one.answer for one in examples],
        }
    )


class Recording(SparseGRPO, trl.GRPOTrainer):
    """Keeps the weights, inputs, loss and gradients of each step."""

    def training_step(self, model, inputs, num_items_in_batch):
        before = {name: part.detach().clone() for name, part in model.named_parameters()}
        loss = super().training_step(model, inputs, num_items_in_batch)
        gradients = {
            name: part.grad.clone()
            for name, part in model.named_parameters()
            if part.grad is not None
        }
        self.steps = [*getattr(self, "steps", []), (before, self.seen, loss.item(), gradients)]
        return loss

    def _compute_loss(self, model, inputs):
        self.seen = inputs
        return super()._compute_loss(model, inputs)


def trained(folder, sparse=None, steps=1, model=None, functions=(correct,), **options):
    """(the trainer after its training, its logged metrics)."""
    loaded, processor = zipr1.load("zipr1/tiny")
    model = model or loaded
    model.requires_grad_(True)
    model.model.visual.requires_grad_(False)
    options = {
        "beta": 0.04, "learning_rate": 1e-3, "max_steps": steps, "gradient_checkpointing": False,
        "per_device_train_batch_size": PROMPTS * GROUP, "num_generations": GROUP,
        "max_completion_length": LENGTH, "loss_type": "grpo", "scale_rewards": "none",
        "use_bias_correction_kl": False, "lr_scheduler_type": "constant", "optim": "adamw_torch",
        "bf16": False, "use_cpu": True, "report_to": "none", "logging_steps": 1,
        "save_strategy": "no", "disable_tqdm": True, "output_dir": str(folder), "temperature": TEMPERATURE,
    } | options  # fmt: skip
    trainer = Recording(
        model=model, reward_funcs=list(functions), args=trl.GRPOConfig(**options),
        train_dataset=rows(4 * PROMPTS), processing_class=processor, sparse=sparse,
    )  # fmt: skip
    trainer.train()
    return trainer, [row for row in trainer.state.log_history if "loss" in row]


def experience(model, reference, seen: dict) -> Experience:
    """The rollouts of TRL's batch as ours: each row is a group of one, with TRL's advantage as its
    reward, since TRL has shuffled the groups."""
    prompts = {
        "input_ids": seen["prompt_ids"],
        "attention_mask": seen["prompt_mask"],
        "pixel_values": seen["pixel_values"],
        "image_grid_thw": seen["image_grid_thw"],
        "mm_token_type_ids": seen["mm_token_type_ids"][:, : seen["prompt_ids"].shape[1]],
    }
    with torch.no_grad():
        encoded = encode(model, prompts)
    count, mask = len(seen["prompt_ids"]), seen["completion_mask"].bool()
    rollout = Rollout(
        encoded.embeds, encoded.prompt_ids, tuple(seen["sparse_p"].tolist()),
        seen["completion_ids"], mask, clipped=torch.zeros(count, dtype=torch.bool),
        logprobs=torch.zeros(mask.shape), kept=list(seen["sparse_kept"].unbind(1)),
        token_ratio=seen["sparse_token_ratio"], temperature=TEMPERATURE, suppress=[],
    )  # fmt: skip
    logprobs = score_rollouts(reference, rollout, 1).logprobs
    zeros = torch.zeros(count, 1)
    return Experience(
        [Example(str(i), "", "", "", problem_type="exact") for i in range(count)], rollout,
        Reward(seen["advantages"][:, None], zeros, zeros.bool()),
        score=seen["sparse_gate"][:, None], expected=None, reference_logprobs=logprobs,
        reference=None, numbers=seen["sparse_number"].tolist(),
    )  # fmt: skip


def ours(model, part: Experience, objective, scope: str) -> tuple[float, dict]:
    """The loss and the gradients of our own trainer on these rollouts."""
    rule = TopP(part.rollout.p)
    model.zero_grad()
    with torch.no_grad(), sparse(
        model, rule, scope=scope, prompt_length=part.rollout.prompt_length,
        training=training_pass(part, objective),
    ):  # fmt: skip
        part.rollout.logprobs = completion_states(model, part.rollout).logprobs(part.rollout.tokens)
    with sparse(
        model, rule, scope=scope, prompt_length=part.rollout.prompt_length,
        training=training_pass(part, objective),
    ) as trace:  # fmt: skip
        loss, _ = losses(model, trace, part, Governor(0.02, 0.04), objective)
        loss.mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.mean().item(), gradients


@pytest.mark.parametrize("scope", ["attention", "layer"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_two_steps_have_the_loss_and_gradients_of_our_own_trainer(
    tmp_path, monkeypatch, scope, checkpointing
):
    monkeypatch.setattr(
        "zipr1.training.loss.group_advantages", lambda rewards, floor: rewards
    )  # TRL's advantages are given as rewards
    settings = SparseSettings(sparsity_weight=10.0, scope=scope)
    trainer, logs = trained(tmp_path, settings, steps=2, gradient_checkpointing=checkpointing)
    model, reference = (zipr1.load("zipr1/tiny")[0] for _ in range(2))
    model.requires_grad_(True)
    model.model.visual.requires_grad_(False)
    objective = TrainConfig(
        preset="paper", efficiency_reward=0.0, sparsity_weight=10.0, gate="answer", beta=0.04,
        ablation=Ablation(choice_gradient=True),
    ).objective  # fmt: skip
    assert len(trainer.steps) == 2 and logs[0]["token_ratio"] < 0.9
    for before, seen, loss, gradients in trainer.steps:
        model.load_state_dict(before, strict=False)
        part = experience(model, reference, seen)
        assert 0 < seen["sparse_gate"].mean() < 1 and len(set(part.rollout.p)) > 2
        expected, mine = ours(model, part, objective, scope)
        assert loss == pytest.approx(expected, rel=1e-4)
        assert gradients.keys() == mine.keys()
        difference = sum((gradients[name] - mine[name]).square().sum() for name in mine).sqrt()
        size = sum(mine[name].square().sum() for name in mine).sqrt()
        assert size > 0.01 and difference < 1e-3 * size, (difference, size)


def test_dense_rollouts_of_an_untouched_model_have_no_kl(tmp_path):
    trainer, logs = trained(tmp_path, SparseSettings(dense_share=1.0))
    assert logs[0]["kl"] == pytest.approx(0, abs=1e-9) and logs[0]["token_ratio"] == 1
    assert set(trainer.steps[0][1]["sparse_p"].tolist()) == {1.0}


def test_the_reference_is_dense(tmp_path):
    _, logs = trained(tmp_path, SparseSettings())
    assert logs[0]["kl"] > 1e-5 and logs[0]["flip_rate"] == 0


def test_efficiency_is_a_reward_function_and_old_logprobs_are_sparse(tmp_path):
    """Two iterations on one batch need old log-probabilities: at the first, the ratio is 1."""
    trainer, logs = trained(
        tmp_path, SparseSettings(), steps=2, functions=(correct, efficiency), num_iterations=2
    )
    first = trainer.steps[0][1]
    assert "old_per_token_logps" in first
    ratio = first["sparse_token_ratio"]
    assert logs[0]["rewards/efficiency/mean"] == pytest.approx(1 - ratio.mean().item(), abs=1e-6)
    assert logs[0]["clip_ratio/region_mean"] == 0 and abs(logs[0]["loss"]) < 1


def test_a_lora_adapter_has_the_dense_base_as_its_reference(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = zipr1.load("zipr1/tiny")[0]
    names = r".*language_model\.layers\.\d+\..*\.(q_proj|v_proj)"
    model = get_peft_model(base, LoraConfig(r=4, target_modules=names))
    folder = tmp_path / "lora"
    loaded = zipr1.load("zipr1/tiny")[1]
    trainer = Recording(
        model=model, reward_funcs=[correct], processing_class=loaded, train_dataset=rows(4),
        args=trl.GRPOConfig(
            beta=0.04, max_steps=1, per_device_train_batch_size=4, num_generations=4, bf16=False,
            max_completion_length=4, use_cpu=True, report_to="none", logging_steps=1,
            save_strategy="no", output_dir=str(folder),
        ),
        sparse=SparseSettings(sparsity_weight=1.0, dense_share=0.0),
    )  # fmt: skip
    trainer.train()
    (log,) = [row for row in trainer.state.log_history if "loss" in row]
    assert log["kl"] > 1e-5 and all("lora" in name for name in trainer.steps[0][3])
    trainer.save_model(str(folder))
    assert json.loads((folder / "zipr1.json").read_text())["p"] == 0.975


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"gate_reward": "length"}, "gate_reward='length': the reward functions are correct"),
        ({"thresholds": "normal"}, "thresholds: normal: input should be 'grid' or 'uniform'"),
        ({"p": 0.0}, "p=0.0: must lie in"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_named(tmp_path, settings, word):
    with pytest.raises(InputError, match=word):
        trained(tmp_path, SparseSettings(**settings))


def test_evaluation_is_under_the_fixed_threshold(tmp_path):
    model, processor = zipr1.load("zipr1/tiny")
    trainer = Recording(
        model=model, reward_funcs=[correct], processing_class=processor, train_dataset=rows(4),
        eval_dataset=rows(2), sparse=SparseSettings(p=0.9, sparsity_weight=1.0),
        args=trl.GRPOConfig(
            beta=0.0, per_device_eval_batch_size=4, num_generations=4, max_completion_length=4,
            use_cpu=True, bf16=False, report_to="none", output_dir=str(tmp_path),
        ),
    )  # fmt: skip
    metrics = trainer.evaluate()
    assert set(trainer.seen["sparse_p"].tolist()) == {0.9} and metrics["eval_token_ratio"] < 0.8
