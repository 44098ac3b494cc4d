"""The settings of post-training: one dataclass, from which flags and YAML derive. Names are TRL's where TRL has one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from zipr1.common.checks import check_positive, check_share
from zipr1.common.recipe import read_recipe
from zipr1.tasks.names import TASK_NAMES, check_tasks
from zipr1.training.objective import PRESETS, Objective

if TYPE_CHECKING:
    from zipr1.sparsity.rules import TopP

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class TrainConfig:
    """`zipr1 train`: ZipR1 post-training of a Qwen-VL model, or of a text model on rows. --plan, with the options of
    `zipr1 plan`: what a step of it would take, and nothing is trained."""

    model: str = "zipr1/tiny"
    """Hub id, folder, or the embedded model; also the frozen dense reference."""
    preset: Literal["paper", "exact"] = "exact"
    """The paper's objective as printed, or with the pathwise gradient and accuracy held."""
    output_dir: str = "runs/train"
    """Where everything goes."""
    tasks: list[str] = field(default_factory=lambda: list(TASK_NAMES))
    """Which of the embedded ones; used where no `data` is named."""
    data: str | None = None
    """Rows to train on instead of the tasks: Video-R1 JSON, .jsonl, .parquet, a folder or hub id; behind it, if need be, a
    configuration and a split as `datasets` has them: owner/name:config[validation], rows.json[train[100:]]."""
    media_root: str | None = None
    """Where paths of media start; unset, the folder of the data."""
    probe_data: str | None = None
    """Rows to measure on, other ones, as `data`; needed with it."""
    max_frames: int = 16
    """Frames of a clip that are read."""
    max_pixels: int | None = None
    """Of a picture; larger ones are made smaller. Unset, the processor's own. The trained model's processor keeps it."""
    video_max_pixels: int | None = None
    """The same of each frame of a clip, or of what else the family's video processor counts (Qwen3-VL: the whole clip)."""
    max_prompt_length: int | None = None
    """Tokens; longer rows are left out and counted. Unset, what the model's positions leave."""
    think: bool = False
    """Ask Video-R1's questions for <think>."""
    graded: bool = False
    """Grades between 0 and 1, where a problem type has them, instead of right or wrong."""
    reward_function: str | None = None
    """As package.module:name, with TRL's signature, instead of the graders. Of several the sum, each with a weight if it has
    one: mine:right,0.2*mine:short."""
    max_steps: int = 300
    """Steps of the optimiser, each on its own questions."""
    prompts_per_step: int = 4
    """B: questions a step."""
    num_generations: int = 8
    """G: rollouts a question, each under its own p."""
    max_completion_length: int = 6
    """Tokens; enough for the embedded tasks, raise it for your data."""
    temperature: float = 1.0
    """Of sampling."""
    thresholds: Literal["grid", "uniform"] = "grid"
    """Of p for the rollouts: 0.94 .. 0.975 by 0.005, or U(0, 1)."""
    dense_share: float = 0.0
    """Share of the rollouts under p = 1, which hold the dense accuracy; 1: plain GRPO."""
    learning_rate: float = 3e-4
    """After the warm-up."""
    warmup_steps: int = 10
    """Over which the learning rate rises from zero."""
    decay_share: float = 0.3
    """Share of the run, at its end, over which the learning rate falls to zero."""
    max_grad_norm: float = 1.0
    """Longer gradients are scaled down to it."""
    weight_decay: float = 0.0
    """Of AdamW."""
    epsilon: float = 0.2
    """Clip range of the importance ratio."""
    num_iterations: int = 1
    """Optimiser steps on each batch of rollouts."""
    mini_batches: int = 1
    """Parts of a step's questions, each with its own optimiser step."""
    max_tokens_per_batch: int | None = None
    """Of a pass with gradients, prompts and completions with padding; unset, a mini-batch in one pass. Sampled are the rollouts
    of a question together."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass, for memory."""
    fsdp: bool = False
    """FSDP2: shard the weights over the processes, instead of a copy in each (DDP)."""
    bf16: bool = False
    """Compute in bfloat16, and keep the reference in it; trained weights stay in float32."""
    use_peft: bool = False
    """LoRA: train an adapter; the reference is the model without it."""
    lora_r: int = 16
    """Rank of the adapter."""
    lora_alpha: int = 32
    """Scale of the adapter: alpha / r."""
    lora_target_modules: list[str] = field(default_factory=lambda: list(PROJECTIONS))
    """Of the text decoder's layers."""
    completions: Literal["sampled", "given"] = "sampled"
    """Given: the data's own answers, nothing is sampled."""
    chat_template: bool = True
    """False: a prompt is its text as it is (text models)."""
    efficiency_reward: float | None = None
    """Weight of 1 - token ratio in the reward (Eq. 4); unset, the preset's, as all that follow."""
    sparsity_weight: float | None = None
    """Weight of the pathwise gradient of the token ratio."""
    gate: Literal["none", "group", "answer"] | None = None
    """Which rollouts may earn for sparsity: all, those of a group with a right answer, or right ones."""
    kl: Literal["sampled", "full", "forward"] | None = None
    """Sampled as GRPO does, over the full vocabulary, or that from the reference's side."""
    beta: float | None = None
    """Weight of the KL to the dense reference."""
    reward_weight: float | None = None
    """Weight of the clipped surrogate; of given completions, of their cross-entropy."""
    baseline: Literal["group", "reference"] | None = None
    """Of the advantage: the group's mean, or one minus the reference's chance of the right answer (rewards of 0 or 1 only: with
    graded or reward_function it is group in either preset)."""
    std_floor: float | None = None
    """Least standard deviation that group advantages are divided by."""
    share_ties: bool | None = None
    """Equal sampled answers of a group earn the mean of their efficiencies; of use with an efficiency_reward."""
    governed: bool | None = None
    """Let the sparsity weight follow the running accuracy."""
    choice_gradient: bool | None = None
    """Where there is a sparsity weight, ask in each step what the tokens that were left out would have changed
    (zipr1.membership). The pass with gradients then takes a dense one's time. The sparsity weight of `exact` is for true;
    without, 1 to 3 were used."""
    accuracy_tolerance: float = 0.02
    """By which rollouts may be less often right than the dense reference."""
    accuracy_margin: float = 0.04
    """Beyond that, where sparsity stops counting."""
    target_ratio: float = 0.2
    """Token ratio at which the sparsity term lets go of a rollout: what accuracy would pay for more."""
    give_back: float = 0.0
    """Weight, in units of sparsity_weight and times the chance that the dense reference is right, with which a sparse rollout
    that is wrong asks for more tokens; beside gate=answer and the grid of thresholds, where it was measured. The governor lets
    go of a whole kind of question; this gets back what one sort of it has lost."""
    sharpness: Literal["count", "entropy", "soft_count"] = "count"
    """What the sparsity term makes small: the relaxed count of tokens that p asks for, or, for the ablation, the entropy of
    the scores or a soft count (zipr1.sharpness)."""
    relax_floor: float = 0.1
    """Of the count: bounds the pathwise gradient, in units of the mean score."""
    choice: Literal["normalised", "accumulated"] = "normalised"
    """Which tokens Top-p takes (zipr1.TopP)."""
    scope: Literal["attention", "layer"] = "attention"
    """What follows the kept tokens in training and measuring (zipr1.sparse)."""
    p: float = 0.975
    """The fixed threshold that is measured and recommended for inference."""
    probe_every: int = 100
    """Steps between measurements on the frozen probe set."""
    probe_per_task: int = 20
    """Questions of each task's validation split, or rows of probe_data."""
    report_to: Literal["tensorboard", "wandb", "trackio"] = "tensorboard"
    """The tracker, installed by you."""
    max_skipped_steps: int = 3
    """How many may have a loss, gradient or reward that is not finite, or in a row no usable rows; one more stops the run."""
    probe_batch_size: int = 25
    """Prompts of one pass; fewer for long ones."""
    save_steps: int = 100
    """Between checkpoints."""
    save_total_limit: int = 2
    """Checkpoints that are kept."""
    push_to_hub: str | None = None
    """Owner/name on the Hugging Face hub, for the result."""
    json: bool = False
    """Print what the run came to, as one JSON object."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir."""
    seed: int = 0
    """Of every random number."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self):
        check_positive(
            self, "max_steps", "prompts_per_step", "num_generations", "max_completion_length", "num_iterations", "probe_every",
            "probe_per_task", "probe_batch_size", "save_steps", "save_total_limit", "threads", "temperature", "learning_rate",
            "accuracy_margin", "mini_batches", "max_tokens_per_batch", "lora_r", "lora_alpha", "max_frames",
            "max_prompt_length", "max_pixels", "video_max_pixels",
        )  # fmt: skip
        check_share(self, "p")
        if not 0 <= self.dense_share <= 1:
            raise ValueError(
                f"dense_share={self.dense_share}: the share of dense rollouts must lie in [0, 1]"
            )
        if not 0 <= self.target_ratio < 1:
            raise ValueError(
                f"target_ratio={self.target_ratio}: the token ratio to reach must lie in [0, 1), for example 0.2"
            )
        check_tasks(self.tasks)
        if self.give_back < 0:
            raise ValueError(f"give_back={self.give_back}: must be 0 or above")
        compared = self.completions != "given" and self.objective.asks_reference
        if self.give_back and self.objective.sparsity_weight and not compared:
            raise ValueError(
                f"give_back={self.give_back}: needs sampled answers, and governed: true to ask the reference; else set it to 0"
            )
        if self.objective.baseline == "reference" and self.objective.efficiency_reward:
            raise ValueError(
                "baseline=reference: for a reward of right or wrong alone; set efficiency_reward to 0"
            )
        if self.objective.baseline == "reference" and (self.graded or self.reward_function):
            raise ValueError(
                "baseline=reference: for rewards of 0 or 1, which graded and reward_function do not give; set baseline to group"
            )
        if self.completions == "given" and self.objective.gate != "none":
            raise ValueError(
                "completions=given: nothing is sampled, so nothing is right or wrong; set gate: none"
            )
        if self.data and not self.probe_data:
            raise ValueError(
                f"data={self.data}: name probe_data too, rows to measure on that are not trained on"
            )
        if self.prompts_per_step % self.mini_batches:
            raise ValueError(
                f"mini_batches={self.mini_batches}: must divide prompts_per_step={self.prompts_per_step}"
            )

    def check_processes(self, processes: int) -> None:
        """Raises ValueError where so many processes cannot share the questions of a step."""
        if self.prompts_per_step % (self.mini_batches * processes):
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step}: must be a multiple of mini_batches={self.mini_batches} times "
                f"{processes} processes"
            )

    def rule(self, p: float | tuple[float, ...]) -> TopP:
        """Top-p as trained and measured."""
        from zipr1.sparsity.rules import TopP  # torch is not needed to read the settings

        return TopP(p, self.choice)

    @property
    def objective(self) -> Objective:
        """The preset, with what was set by hand. Rewards that are not 0 or 1 have the group's mean as their baseline."""
        preset = PRESETS[self.preset]
        if self.graded or self.reward_function:
            preset = replace(preset, baseline="group")
        own = {name: getattr(self, name) for name in preset.__dataclass_fields__}
        return Objective(
            **{
                name: getattr(preset, name) if value is None else value
                for name, value in own.items()
            }
        )


@dataclass
class PlanConfig(TrainConfig):
    """`zipr1 plan`: what a step of `zipr1 train` with these options will take, from shapes; loads and trains nothing."""

    prompt: int = 2048
    """Tokens of a prompt."""
    ratio: float = 0.5
    """Share of them that a layer keeps, mean over the run."""
    processes: int = 1
    """How many share a step."""
    tflops: float | None = None
    """What one process really does in a second, for an estimate of the time."""

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "prompt", "processes", "tflops")
        check_share(self, "ratio")


def cores() -> int:
    """That this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class DataCheckConfig:
    """`zipr1 data check`: reads a data set once, and reports what it holds and what of it training would leave out."""

    file: str
    """Video-R1 JSON, or .jsonl, .parquet, a folder or hub id, with :config and [split], as `data` of zipr1 train."""
    recipe: str | None = None
    """Of zipr1 train: its settings. Those that follow come before them, and are called the same there."""
    media_root: str | None = None
    """Where paths of media start; unset, the folder of the file."""
    model: str | None = None
    """The model whose processor counts the tokens of a prompt."""
    max_prompt_length: int | None = None
    """Tokens; unset, what the model's positions leave."""
    max_completion_length: int | None = None
    """Tokens, for which a prompt leaves room."""
    max_frames: int | None = None
    """Frames of a clip that are read."""
    max_pixels: int | None = None
    """Of a picture; larger ones are made smaller."""
    video_max_pixels: int | None = None
    """Of each frame of a clip."""
    think: bool | None = None
    """Ask Video-R1's questions for <think>."""
    chat_template: bool | None = None
    """False: a prompt is its text as it is (text models)."""
    completions: Literal["sampled", "given"] | None = None
    """Given: the data's own answers, which nothing grades."""
    reward_function: str | None = None
    """Instead of the graders, which then do not look at the answers."""
    workers: int = field(default_factory=cores)
    """Processes that read; 0: this one."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self):
        if self.workers < 0:
            raise ValueError(f"workers={self.workers}: must be at least 0")

    def training(self) -> TrainConfig:
        """The training that the rows are for. Raises ValueError as TrainConfig does."""
        start = read_recipe(TrainConfig, self.recipe) if self.recipe else TrainConfig()
        own = {
            name: value
            for name, value in vars(self).items()
            if name in TrainConfig.__dataclass_fields__ and name != "json"
        }
        own = {name: value for name, value in own.items() if value is not None}
        # Neither gate nor baseline says anything of rows; these go with any completions and rewards.
        return replace(
            start, data=self.file, probe_data=self.file, gate="none", baseline="group", **own
        )
