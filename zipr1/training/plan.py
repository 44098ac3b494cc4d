"""What a step of post-training will take, from shapes: memory of a process and FLOPs. Pure arithmetic; nothing is loaded.

Weights are counted on a model without storage. Left out: buffers of communication, what a kernel keeps for itself, the vision
tower's work (once a question) and fragmentation. Beside a measurement: docs/results.md.
"""

from dataclasses import asdict, dataclass

import torch

from zipr1.models.families import auto_class
from zipr1.models.flops import Shape, layer_flops
from zipr1.models.loading import load_config
from zipr1.training.choice_gradient import BYTES, piece_of
from zipr1.training.config import TrainConfig

GB = 1e9


@dataclass(frozen=True)
class Plan:
    """Of one process, in GB; TFLOP of one step over all processes."""

    processes: int
    parameters: int
    trained: int
    weights_gb: float
    reference_gb: float
    gradients_gb: float
    optimizer_gb: float
    activations_gb: float  # of the largest pass with gradients
    logits_gb: float  # of that pass over the vocabulary, and what the loss makes of them
    experience_gb: (
        float  # of all rollouts of a step: their prompts' embeddings, the reference's logits
    )
    sampling_gb: float  # of the largest pass without gradients: whole weights if they are sharded, KV cache, a layer, logits
    rollout_tflop: float
    reference_tflop: float
    update_tflop: float
    seconds: float | None  # at the given speed

    @property
    def total_gb(self) -> float:
        """A step samples and then learns: the larger of the two, beside what is held all the time."""
        learning = self.gradients_gb + self.activations_gb + self.logits_gb
        held = self.weights_gb + self.reference_gb + self.optimizer_gb + self.experience_gb
        return held + max(learning, self.sampling_gb)

    @property
    def tflop(self) -> float:
        return self.rollout_tflop + self.reference_tflop + self.update_tflop

    def describe(self) -> str:
        millions = (
            f"{self.parameters / 1e6:.1f}M parameters, {self.trained / 1e6:.2f}M of them trained"
        )
        lines = [f"{millions}, {self.processes} processes"]
        lines += [
            f"{name[:-3]:<14}{value:9.3f} GB"
            for name, value in asdict(self).items()
            if name.endswith("_gb")
        ]
        lines.append(
            f"{'at most':<14}{self.total_gb:9.3f} GB a process, when it samples or when it learns"
        )
        lines += [
            f"{name[:-6]:<14}{value:9.3f} TFLOP"
            for name, value in asdict(self).items()
            if name.endswith("_tflop")
        ]
        seconds = "" if self.seconds is None else f", {self.seconds:.1f} s at the given speed"
        lines.append(f"{'a step':<14}{self.tflop:9.3f} TFLOP{seconds}")
        return "\n".join(lines)


def plan(
    config: TrainConfig, prompt: int, ratio: float, processes: int, tflops: float | None
) -> Plan:
    """See PlanConfig. A ratio speeds up only what the scope lets follow it (zipr1.bounds). Raises ValueError for processes that
    cannot share a step."""
    config.check_processes(processes)
    settings = load_config(config.model)
    with torch.device("meta"):
        model = auto_class(settings).from_config(settings)
    model.tie_weights()
    text, shape = settings.get_text_config(), Shape.of(settings.get_text_config())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    visual = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if ".visual." in f".{name}"
    )
    trained = lora_parameters(shape, config) if config.use_peft else parameters - visual
    size = 2 if config.bf16 else 4  # of the reference, and of what is computed
    held = size if config.use_peft else 4  # of the weights; what is trained is in float32
    shards = processes if config.fsdp else 1

    rows = config.prompts_per_step * config.num_generations // (config.mini_batches * processes)
    length = prompt + config.max_completion_length
    if config.max_tokens_per_batch:
        rows = max(1, min(rows, config.max_tokens_per_batch // length))
    learned = bool(
        config.objective.sparsity_weight and config.objective.choice_gradient
    )  # all rows are computed then

    def inside(kept: float) -> float:  # of one layer and sample
        attention = shape.head * (2 * shape.heads + 2 * shape.kv_heads)
        return length * size * (attention + shape.hidden * 6 + kept * 3 * shape.mlp)

    one = inside(ratio if config.scope == "layer" and not learned else 1.0)
    probes = 128 * shape.heads * prompt * 4 * 2 if config.objective.sparsity_weight else 0
    layers = (
        (length * shape.hidden * size * shape.layers + one)
        if config.gradient_checkpointing
        else one * shape.layers
    )
    activations = rows * (layers + probes * (1 if config.gradient_checkpointing else shape.layers))
    if learned:
        # Scores of one layer and sample, a piece at a time (bfloat16 is for GPUs), or keys and values repeated for all heads.
        scores = BYTES * min(shape.heads * length**2, piece_of("cuda" if config.bf16 else "cpu"))
        activations += max(scores, 2 * rows * length * size * shape.head * shape.heads)
    logits = (
        6 * rows * config.max_completion_length * text.vocab_size * 4
    )  # policy, its log and gradient; the same of the KL

    # Sampled are the rollouts of a question together, each layer cutting the cache to what the fullest of them keeps.
    together = config.num_generations * max(1, rows // config.num_generations)
    whole = (parameters - visual) * size if shards > 1 else 0
    held_tokens = (
        shape.layers
        * ((1.0 if config.dense_share else ratio) * prompt + config.max_completion_length)
        + prompt
    )
    token = 2 * shape.kv_heads * shape.head * size
    next_tokens = (
        text.vocab_size * 24
    )  # logits and their log in float32; their exponential and its cumulative sum in float64
    work = prompt * shape.hidden * size + inside(ratio if config.scope == "layer" else 1.0)
    sampling = together * (held_tokens * token + next_tokens + work)
    # The reference reads a prompt once, and holds it for each of the answers.
    reading = together * (
        shape.layers * length * token + config.max_completion_length * text.vocab_size * (size + 8)
    )
    without_gradients = whole + max(sampling, reading)

    everything = config.prompts_per_step * config.num_generations
    states = size if config.fsdp or config.use_peft else 4  # what the embedding gives
    experience = (
        everything
        // processes
        * (prompt * shape.hidden * states + config.max_completion_length * text.vocab_size * 4)
    )
    head = 2 * config.max_completion_length * text.vocab_size * text.hidden_size
    dense = shape.layers * layer_flops(shape, length) + head
    sparse = shape.layers * layer_flops(shape, length, ratio, config.scope) + head
    own = visual + (parameters - visual) / shards  # the vision tower is whole in every process
    rollout = everything * sparse
    own_answer = config.completions == "sampled" and (
        not config.data or config.objective.asks_reference
    )
    expected = config.prompts_per_step if own_answer else 0
    prompts = config.prompts_per_step * shape.layers * layer_flops(shape, prompt)  # each read once
    reference = prompts + (everything + expected) * (
        dense - shape.layers * layer_flops(shape, prompt)
    )
    update = (
        everything
        * (dense if learned else sparse)
        * (4 if config.gradient_checkpointing else 3)
        * config.num_iterations
    )
    work = (rollout + reference + update) / 1e12
    return Plan(
        processes=processes,
        parameters=parameters,
        trained=trained,
        weights_gb=own * held / GB,
        reference_gb=0.0 if config.use_peft else own * size / GB,
        gradients_gb=trained * 4 / shards / GB,
        optimizer_gb=2 * trained * 4 / shards / GB,
        activations_gb=activations / GB,
        logits_gb=logits / GB,
        experience_gb=experience / GB,
        sampling_gb=without_gradients / GB,
        rollout_tflop=rollout / 1e12,
        reference_tflop=reference / 1e12,
        update_tflop=update / 1e12,
        seconds=work / tflops / processes if tflops else None,
    )


def lora_parameters(shape: Shape, config: TrainConfig) -> int:
    """Of an adapter on the projections of every layer."""
    query, key = shape.heads * shape.head, shape.kv_heads * shape.head
    sides = {
        "q_proj": shape.hidden + query,
        "k_proj": shape.hidden + key,
        "v_proj": shape.hidden + key,
        "o_proj": query + shape.hidden,
        "gate_proj": shape.hidden + shape.mlp,
        "up_proj": shape.hidden + shape.mlp,
        "down_proj": shape.mlp + shape.hidden,
    }
    return shape.layers * config.lora_r * sum(sides[name] for name in config.lora_target_modules)
