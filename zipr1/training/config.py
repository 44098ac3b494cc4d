"""The settings of post-training: one dataclass, from which flags and YAML derive.

Names are TRL's where TRL has one.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from zipr1.common.checks import check_ranges, plain_values
from zipr1.common.errors import InputError
from zipr1.common.scope import Scope
from zipr1.data.renaming import parse_columns
from zipr1.tasks.names import TASK_NAMES, check_tasks
from zipr1.training.combinations import check_combinations
from zipr1.training.objective import PRESETS, Objective

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

ABLATION_RANGES = {"(0, inf)": "std_floor relax_floor"}
RANGES = {
    "[1, inf)": "max_steps prompts_per_step num_generations max_completion_length num_iterations "
    "mini_batches max_tokens_per_batch max_frames max_pixels video_max_pixels max_prompt_length "
    "lora_r lora_alpha probe_every probe_per_task probe_batch_size save_steps save_total_limit",
    "[1, 1024]": "threads",
    "(0, inf)": "temperature learning_rate max_grad_norm accuracy_margin",
    "[0, inf)": "warmup_steps weight_decay max_skipped_steps accuracy_tolerance give_back seed "
    "beta efficiency_reward sparsity_weight reward_weight",
    "(0, 1]": "p",
    "(0, 1)": "epsilon",
    "[0, 1]": "dense_share decay_share",
    "[0, 1)": "target_ratio",
}


@dataclass
class Ablation:
    """Options that only the ablation study uses; unset ones have the preset's value."""

    choice_gradient: bool | None = None
    """Whether the selection of tokens gets a gradient where there is a sparsity weight; the pass
    with gradients then takes the time of dense attention. The sparsity weight of `exact`,
    10, is for true; with false use 1 to 3."""
    sharpness: Literal["count", "entropy", "soft_count"] = "count"
    """The measure that the sparsity term makes small: the relaxed count of tokens that p needs, the
    entropy of the scores, or a soft count."""
    relax_floor: float = 0.1
    """The bound of the pathwise gradient of `count`, in units of the mean score."""
    std_floor: float | None = None
    """The least standard deviation that group advantages are divided by."""
    share_ties: bool | None = None
    """Whether equal sampled answers of a group earn the mean of their efficiencies; it matters with
    an efficiency_reward only."""

    def __post_init__(self):
        check_ranges(self, ABLATION_RANGES)


@dataclass
class TrainConfig:
    """`zipr1 train`: ZipR1 post-training of a vision model, or of a text model on rows.

    --plan, with the options of `zipr1 plan`, prints what a step would take and trains nothing.
    """

    model: str = "zipr1/tiny"
    """The model: a hub id, a folder, or the embedded one; frozen and dense it is the reference."""
    preset: Literal["paper", "exact"] = "exact"
    """The objective: the paper's, or with the pathwise gradient and accuracy constrained."""
    output_dir: str = "runs/train"
    """The folder of the run: metrics, checkpoints and the final model."""
    tasks: list[str] = field(default_factory=lambda: list(TASK_NAMES))
    """The embedded tasks to train on; used where no `data` is named."""
    data: str | None = None
    """Rows to train on instead of the tasks: Video-R1 JSON, .jsonl, .parquet, a folder or hub id,
    followed, where needed, by a configuration and a split as `datasets` has them:
    owner/name:config[validation], rows.json[train[100:]]."""
    media_root: str | None = None
    """The folder that relative media paths start from; unset, the folder of the data."""
    columns: str | None = None
    """Your columns that stand for those of zipr1, as prompt=question,answer=solution."""
    probe_data: str | None = None
    """Other rows, to measure on, in the formats of `data`; required with it."""
    max_frames: int = 16
    """The number of frames read from a video."""
    max_pixels: int | None = None
    """The largest area of an image in pixels; larger images are scaled down. Unset, the processor's
    own. The trained model's processor keeps it."""
    video_max_pixels: int | None = None
    """The same limit for each frame of a video, or for whatever the family's video processor counts
    (Qwen3-VL: the whole video)."""
    max_prompt_length: int | None = None
    """The largest number of prompt tokens; longer rows are left out and counted. Unset, what the
    model's positions allow."""
    think: bool = False
    """Whether Video-R1's questions ask for <think>."""
    graded: bool = False
    """Whether rewards are grades between 0 and 1, where a problem type has them, instead of 0 or
    1."""
    reward_function: str | None = None
    """Your reward function as package.module:name or file.py:name, with TRL's signature, instead of
    the graders. Of several the sum, each optionally weighted: mine:correct,0.2*mine:short."""
    max_steps: int = 300
    """The number of training steps, each on its own questions."""
    prompts_per_step: int = 4
    """The number B of questions of a step."""
    num_generations: int = 8
    """The number G of rollouts of a question, each under its own threshold p."""
    max_completion_length: int = 6
    """The largest number of completion tokens; enough for the embedded tasks, raise it for your
    data."""
    temperature: float = 1.0
    """The sampling temperature."""
    rollouts: Literal["transformers", "vllm"] = "transformers"
    """What samples the rollouts: the policy itself, or a vLLM engine in the same process, which
    takes over its weights before each step (one process; docs/guides/serving.md)."""
    thresholds: Literal["grid", "uniform"] = "grid"
    """The distribution of p for the rollouts: 0.94 .. 0.975 in steps of 0.005, or U(0, 1)."""
    dense_share: float = 0.0
    """The fraction of rollouts under p = 1, which keep the dense accuracy; 1 is plain GRPO."""
    learning_rate: float = 3e-4
    """The learning rate after the warm-up."""
    warmup_steps: int = 10
    """The number of steps over which the learning rate rises from zero."""
    decay_share: float = 0.3
    """The fraction of the run, at its end, over which the learning rate falls to zero."""
    max_grad_norm: float = 1.0
    """The largest gradient norm; longer gradients are scaled down to it."""
    weight_decay: float = 0.0
    """The weight decay of AdamW."""
    epsilon: float = 0.2
    """The clip range of the importance ratio."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """The unit whose importance ratio is clipped: each token (GRPO), or the whole answer, the
    product of its tokens' ratios (Eq. 5 as printed; TRL's sequence level takes the |o|-th root)."""
    loss_type: Literal["grpo", "dr_grpo"] = "grpo"
    """The average over an answer's tokens: over as many as it has (GRPO's 1/|o|), or their sum
    divided by max_completion_length (Dr. GRPO)."""
    num_iterations: int = 1
    """The number of optimiser steps on each batch of rollouts."""
    mini_batches: int = 1
    """The number of parts of a step's questions, each with its own optimiser step."""
    max_tokens_per_batch: int | None = None
    """The largest number of tokens in a pass with gradients, prompts and completions with padding;
    unset, a mini-batch in one pass. The rollouts of a question are sampled together."""
    gradient_checkpointing: bool = False
    """Whether layers are computed again in the backward pass, to save memory."""
    fsdp: bool = False
    """Whether FSDP2 shards the weights over the processes, instead of a copy in each (DDP)."""
    bf16: bool = False
    """Whether to compute, and store the reference, in bfloat16; trained weights stay in float32."""
    use_peft: bool = False
    """Whether to train a LoRA adapter; the reference is the model without it."""
    lora_r: int = 16
    """The rank of the adapter."""
    lora_alpha: int = 32
    """The numerator of the adapter's scale, alpha / r."""
    lora_target_modules: list[str] = field(default_factory=lambda: list(PROJECTIONS))
    """The adapted projections in the text decoder's layers."""
    completions: Literal["sampled", "given"] = "sampled"
    """The source of completions: sampled from the policy, or the data's own answers (given)."""
    chat_template: bool = True
    """Whether prompts are wrapped in the chat template; false for running text (text models)."""
    efficiency_reward: float | None = None
    """The weight of 1 - token ratio in the reward (Eq. 4); unset, this option and those up to
    --governed have the preset's value."""
    sparsity_weight: float | None = None
    """The weight of the pathwise gradient of the token ratio."""
    gate: Literal["none", "group", "answer"] | None = None
    """The rollouts that get the efficiency reward or the sparsity term: all (none), those of a group
    with a correct answer (group), or correct ones (answer)."""
    kl: Literal["sampled", "full", "forward"] | None = None
    """The KL estimate: from the sampled tokens as in GRPO, over the full vocabulary, or
    KL(reference || policy) over the full vocabulary (forward)."""
    beta: float | None = None
    """The weight of the KL to the dense reference."""
    reward_weight: float | None = None
    """The weight of the clipped surrogate; of given completions, of their cross-entropy."""
    baseline: Literal["group", "reference"] | None = None
    """The baseline of the advantage: the group's mean, or one minus the reference's probability of
    a correct answer (rewards of 0 or 1 only: with graded or reward_function it is group in either
    preset)."""
    governed: bool | None = None
    """Whether the sparsity weight is reduced where accuracy falls below the dense reference (the
    accuracy constraint)."""
    accuracy_tolerance: float = 0.02
    """The tolerated accuracy drop of the rollouts against the dense reference (fraction; of given
    completions nats per token)."""
    accuracy_margin: float = 0.04
    """The further drop over which the sparsity weight falls to zero."""
    target_ratio: float = 0.2
    """The token ratio at which the sparsity term stops penalising a rollout; below it, accuracy
    would pay for fewer tokens."""
    give_back: float = 0.0
    """Weight of a negative sparsity term on sparse rollouts that are incorrect where the reference
    is correct, in units of sparsity_weight; measured with gate=answer and thresholds=grid."""
    choice: Literal["normalised", "accumulated"] = "normalised"
    """The scores by which Top-p selects tokens (zipr1.TopP)."""
    scope: Scope = "attention"
    """What dropped tokens skip, in training and measuring (zipr1.sparse): the attention, the whole
    layer, or the attention as keys alone."""
    p: float = 0.975
    """The fixed threshold that is measured, and recommended for inference."""
    probe_every: int = 100
    """The number of steps between measurements on the frozen probe set."""
    probe_per_task: int = 20
    """The number of probe questions of each task's validation split, or of rows of probe_data."""
    probe_batch_size: int = 25
    """The number of prompts in a pass over the probe set; lower it for long ones."""
    report_to: Literal["tensorboard", "wandb", "trackio", "mlflow", "none"] = "tensorboard"
    """The tracker, which you install; none writes metrics.jsonl only."""
    max_skipped_steps: int = 3
    """The number of steps that may be skipped because loss, gradient or reward is not finite, and of
    consecutive steps without a usable row; one more stops the run."""
    save_steps: int = 100
    """The number of steps between checkpoints."""
    save_total_limit: int = 2
    """The number of checkpoints that are kept."""
    push_to_hub: str | None = None
    """The repository on the Hugging Face hub, owner/name, that the result is uploaded to."""
    json: bool = False
    """Whether to print a summary of the run as one JSON object."""
    resume: bool = False
    """Whether to continue from the last checkpoint in output_dir."""
    seed: int = 0
    """The seed of every random number."""
    threads: int = 1
    """The number of CPU threads."""
    ablation: Ablation = field(default_factory=Ablation)
    """Options that only the ablation study uses, as `ablation: {sharpness: entropy}` in YAML."""

    def __post_init__(self):
        plain_values(self)
        check_ranges(self, RANGES)
        check_tasks(self.tasks)
        parse_columns(self.columns)
        check_combinations(self, self.objective)

    def check_processes(self, processes: int) -> None:
        """Raises InputError where so many processes cannot share the work of a step."""
        if self.rollouts == "vllm" and processes > 1:
            raise InputError(
                f"rollouts=vllm: its engine shares one process with the training, not {processes}; "
                "start one, or set rollouts to transformers"
            )
        if self.prompts_per_step % (self.mini_batches * processes):
            raise InputError(
                f"prompts_per_step={self.prompts_per_step}: must be a multiple of "
                f"mini_batches={self.mini_batches} times {processes} processes"
            )

    @property
    def objective(self) -> Objective:
        """The preset with what was set by hand. Rewards that are not 0 or 1 have the group's mean
        as their baseline."""
        preset = PRESETS[self.preset]
        if self.graded or self.reward_function:
            preset = replace(preset, baseline="group")
        given = vars(self.ablation) | vars(self)
        own = {name: given[name] for name in preset.__dataclass_fields__}
        return replace(preset, **{name: value for name, value in own.items() if value is not None})
