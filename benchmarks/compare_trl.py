"""zipr1 compared with TRL's GRPOTrainer: zipr1/tiny, the same questions, GRPO with dense attention.

    uv pip install -c constraints.txt -e '.[bench]'
    OMP_NUM_THREADS=1 python benchmarks/compare_trl.py

One process and one thread, alternating. Both sample answers of the same number of tokens (an end of
turn is suppressed before), with a second copy of the model as the reference, KL weight 0.04,
advantages without division by the standard deviation, a frozen vision tower, AdamW, and no gradient
checkpointing. zipr1's step also draws its images and scores the expected answers with the
reference; TRL reads its images from a data set in memory. A step of TRL lasts from the end of one
to the end of the next.

First both losses are computed on the same completions, by a policy that differs from the reference.
TRL's default multiplies the KL by the importance ratio, unlike GRPO (arXiv 2402.03300) and Eq. 5;
this is turned off.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import zipr1
from zipr1.bench.training import steps_of
from zipr1.data.processor import collate
from zipr1.models.encode import encode
from zipr1.models.saving import save
from zipr1.rewards.graders import exact
from zipr1.rewards.reward import reward
from zipr1.training.config import Ablation, TrainConfig
from zipr1.training.experience import Experience
from zipr1.training.grpo import Governor
from zipr1.training.loss import losses
from zipr1.training.questions import Questions
from zipr1.training.reference import score_rollouts
from zipr1.training.rollout import token_states
from zipr1.training.sampling import score_given
from zipr1.training.training_step import question_numbers

SAME = (
    "num_generations",
    "max_completion_length",
    "epsilon",
    "temperature",
    "learning_rate",
    "max_grad_norm",
    "weight_decay",
)
IMAGE_TASKS = ["shapes", "digits", "chart", "sign"]  # TRL accepts no videos


def save_without_end(folder: Path) -> None:
    """Saves the embedded model without an end-of-sequence token."""
    model, processor = zipr1.load("zipr1/tiny")
    model.generation_config.eos_token_id = None
    save(model, processor, folder)


def settings(arguments, folder: Path) -> TrainConfig:
    """Plain GRPO: Eq. 4 and 5 without division by the standard deviation, every rollout dense."""
    steps = arguments.steps + 1
    return TrainConfig(
        model=str(folder), preset="paper", tasks=IMAGE_TASKS, dense_share=1.0,
        efficiency_reward=0.0, ablation=Ablation(std_floor=1.0),
        prompts_per_step=arguments.prompts, num_generations=arguments.generations,
        max_completion_length=arguments.tokens, max_steps=steps, probe_every=steps,
        save_steps=steps, probe_per_task=1, learning_rate=1e-6, warmup_steps=1, decay_share=0.0,
        output_dir=str(folder / "zipr1"),
    )  # fmt: skip


def rows_of(config: TrainConfig, processor) -> Dataset:
    """The questions of zipr1's steps, in their order."""
    questions, accelerator = Questions(config, processor, 4096), Accelerator()
    numbers = [
        (step, number)
        for step in range(config.max_steps)
        for number in question_numbers(step, config, accelerator)[0]
    ]
    examples = [questions.example(number, step) for step, number in numbers]
    prompts = [[{"role": "user", "content": example.question}] for example in examples]
    columns = {"prompt": prompts, "image": [example.image for example in examples]}
    return Dataset.from_dict(columns | {"answer": [example.answer for example in examples]})


def correct(completions, answer, **columns) -> list[float]:
    """zipr1's reward in TRL's signature."""
    pairs = zip(completions, answer, strict=True)
    return [exact(expected, completion[0]["content"]) for completion, expected in pairs]


class RecordingTrainer(GRPOTrainer):
    """Keeps the inputs, the loss and the gradients of the last step."""

    def training_step(self, model, inputs, num_items_in_batch):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.result = (
            loss,
            {
                name: part.grad.clone()
                for name, part in model.named_parameters()
                if part.grad is not None
            },
        )
        return loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.inputs = inputs
        return super().compute_loss(model, inputs, *args, **kwargs)


class Times(TrainerCallback):
    """Seconds between the ends of steps."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, *args, **kwargs):
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]


def trl_trainer(
    kind: type[GRPOTrainer],
    model,
    processor,
    rows: Dataset,
    config: TrainConfig,
    function: Callable,
    steps: int,
    callbacks=(),
) -> GRPOTrainer:
    model.requires_grad_(True)
    model.model.visual.requires_grad_(False)
    batch = config.prompts_per_step * config.num_generations
    shared = {name: getattr(config, name) for name in SAME}
    arguments = GRPOConfig(
        **shared, output_dir=str(Path(config.model) / "trl"), per_device_train_batch_size=batch,
        beta=config.objective.beta, loss_type="grpo", scale_rewards="none",
        generation_kwargs={"min_new_tokens": config.max_completion_length},
        use_bias_correction_kl=False, lr_scheduler_type="constant", optim="adamw_torch",
        shuffle_dataset=False, gradient_checkpointing=False, bf16=False, use_cpu=True,
        report_to="none", logging_strategy="no", save_strategy="no", disable_tqdm=True,
        max_steps=steps,
    )  # fmt: skip
    return kind(
        model, function, arguments, rows, processing_class=processor, callbacks=list(callbacks)
    )


def even(completions, **columns) -> list[float]:
    """A reward that varies within a group; without an end of turn no answer is correct."""
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [float(len(text) % 2 == 0) for text in texts]


def agreement(config: TrainConfig, rows: Dataset) -> dict[str, float]:
    """Loss and gradients of both on the completions of one step of TRL; relative errors of norms.

    zipr1 computes as its trainer does, except that each rollout's prompt is encoded separately and
    without gradient.
    """
    torch.manual_seed(0)
    (model, processor), (reference, _) = zipr1.load(config.model), zipr1.load(config.model)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            # Away from the reference, so that the KL is not zero.
            parameter.mul_(1 + 0.01 * torch.randn_like(parameter))
    trainer = trl_trainer(RecordingTrainer, model, processor, rows, config, even, steps=1)
    start = {name: part.clone() for name, part in model.state_dict().items()}
    trainer.train()
    model.load_state_dict(start)
    seen = trainer.inputs
    _, examples, parts = Questions(config, processor, 4096).read(range(config.prompts_per_step), 0)
    # TRL shuffles the rows of a step: restore the order of the questions by their images.
    images = seen["pixel_values"].split(seen["image_grid_thw"].prod(-1).tolist())
    order = [
        row
        for part in parts
        for row, pixels in enumerate(images)
        if torch.equal(pixels, part["pixel_values"])
    ]
    assert sorted(order) == list(range(len(images))), "TRL saw other images"
    tokens, mask = seen["completion_ids"][order], seen["completion_mask"][order].bool()
    texts = processor.batch_decode(tokens, skip_special_tokens=True)
    rewards = reward(examples, texts, torch.ones(len(tokens)), function=((1.0, even),))
    theirs, expected = trainer.result
    # As given completions, so that log-probabilities are over the whole vocabulary, as in TRL.
    every = [part for part in parts for _ in range(config.num_generations)]
    with torch.no_grad():
        encoded = encode(model, collate(processor, every))
    dense = zipr1.TopP((1.0,) * len(tokens))
    rollout = score_given(model, encoded, dense, tokens=tokens, mask=mask)
    scores = score_rollouts(reference, rollout, config.num_generations)
    experience = Experience(
        examples,
        rollout,
        rewards,
        (rewards.accuracy > 0.5).float(),
        torch.zeros(len(examples)),
        scores.logprobs,
        token_states(reference, rollout, scores.hidden),
        list(range(len(examples))),
    )
    model.zero_grad()
    with zipr1.sparse(
        model,
        dense,
        prompt_length=rollout.prompt_length,
        training=zipr1.TrainingPass(replay=rollout.kept),
    ) as trace:
        loss, metrics = losses(
            model,
            trace,
            experience,
            Governor(config.accuracy_tolerance, config.accuracy_margin),
            config.objective,
        )
        loss.mean().backward()
    ours = {name: part.grad for name, part in model.named_parameters()}
    found = {
        "loss_trl": theirs.item(),
        "loss_zipr1": loss.mean().item(),
        "kl_zipr1": metrics["kl"].mean().item(),
    }
    found["rewarded"] = rewards.accuracy.mean().item()
    tables = {name for name in expected if "embed_tokens" in name}
    for part, names in (("layers", expected.keys() - tables), ("embedding", tables)):
        off = sum((ours[name] - expected[name]).square().sum() for name in names)
        found[f"{part}_gradient_error"] = (
            (off / sum(expected[name].square().sum() for name in names)).sqrt().item()
        )
    return found


def compare(config: TrainConfig, rows: Dataset, repeats: int) -> dict[str, float]:
    """Seconds per step, medians over all steps but the first; the speed-up over pairs of runs."""
    found: dict[str, list[list[float]]] = {"zipr1": [], "trl": []}
    for _ in range(repeats):
        found["zipr1"].append([step["step_time"] for step in steps_of(config)])
        model, processor = zipr1.load(config.model)
        times = Times()
        trl_trainer(
            GRPOTrainer, model, processor, rows, config, correct, config.max_steps, [times]
        ).train()
        found["trl"].append(times.seconds)
    ratios = [median(theirs) / median(ours) for ours, theirs in zip(*found.values(), strict=True)]
    every = {
        f"{name}_seconds": median(second for run in runs for second in run)
        for name, runs in found.items()
    }
    return every | {
        "speedup": median(ratios),
        "speedup_low": min(ratios),
        "speedup_high": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (
        ("prompts", 16),
        ("generations", 2),
        ("tokens", 6),
        ("steps", 4),
        ("repeats", 5),
        ("threads", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_without_end(folder)
        config = settings(arguments, folder)
        rows = rows_of(config, zipr1.load(folder)[1])
        print(json.dumps(agreement(config, rows)), flush=True)
        if arguments.repeats:
            print(json.dumps(vars(arguments) | compare(config, rows, arguments.repeats)))


if __name__ == "__main__":
    main()
