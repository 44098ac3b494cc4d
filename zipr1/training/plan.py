"""What a step of post-training will take, from shapes: memory of a process and FLOPs.

Pure arithmetic; weights are counted on a model without storage. Left out: communication buffers,
what a kernel allocates for itself, the vision tower's work (once per question) and fragmentation.
docs/archive/results.md compares it with a measurement.
"""

from dataclasses import asdict, dataclass

from zipr1.common.errors import InputError
from zipr1.models.flops import attention_flops, decoder_flops, kv_bytes
from zipr1.training.choice_gradient import BYTES_PER_SCORE, chunk_size
from zipr1.training.plan_config import PlanConfig
from zipr1.training.plan_sizes import Sizes, sizes_of
from zipr1.training.token_logits import MOST_LOGITS

GB = 1e9
PROCESS = 0.9e9  # bytes, measured on a CPU (docs/archive/log.md)


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
    experience_gb: float  # of a step's rollouts: embeddings of prompts, scores of the reference
    sampling_gb: float  # of the largest pass without gradients, gathered weights included
    engine_gb: float  # of vLLM, which keeps it while the training learns
    process_gb: float  # libraries, and on a GPU its context
    rollout_tflop: float
    reference_tflop: float
    update_tflop: float
    seconds: float | None  # at the given speed

    @property
    def total_gb(self) -> float:
        """A step samples and then learns: the larger of the two, and what is allocated in both."""
        learning = self.gradients_gb + self.activations_gb + self.logits_gb
        always = self.weights_gb + self.reference_gb + self.optimizer_gb + self.experience_gb
        always += self.process_gb + self.engine_gb
        return always + max(learning, self.sampling_gb)

    @property
    def tflop(self) -> float:
        return self.rollout_tflop + self.reference_tflop + self.update_tflop

    def describe(self) -> str:
        values = asdict(self)
        millions = f"{self.parameters / 1e6:.1f}M parameters, {self.trained / 1e6:.2f}M trained"
        total = f"{'at most':<14}{self.total_gb:9.3f} GB per process, sampling or learning"
        seconds = "" if self.seconds is None else f", {self.seconds:.1f} s at the given speed"
        memory = [
            f"{name[:-3]:<14}{value:9.3f} GB" for name, value in values.items() if "_gb" in name
        ]
        work = [
            f"{name[:-6]:<14}{value:9.3f} TFLOP"
            for name, value in values.items()
            if "_tflop" in name
        ]
        step = f"{'a step':<14}{self.tflop:9.3f} TFLOP{seconds}"
        return "\n".join([f"{millions}, {self.processes} processes", *memory, total, *work, step])


def plan(
    config: PlanConfig,
    prompt: int,
    ratio: float,
    processes: int,
    tflops: float | None,
    shape: str | None = None,
) -> Plan:
    """See plan_config; `shape` is a published model in place of config.model. A ratio speeds up only
    what the scope covers (models.flops).

    Raises InputError for processes that cannot divide a step, and for a GPU without room for vLLM.
    """
    config.check_processes(processes)
    sizes = sizes_of(config, prompt, ratio, processes, shape)
    text = sizes.parameters - sizes.visual
    trained = sizes.adapter if config.use_peft else text
    own = sizes.visual + text / sizes.shards
    # A sharded reference is kept beside its language head, which the loss uses.
    whole_head = sizes.vocabulary * sizes.shape.hidden if sizes.shards > 1 else 0
    rollout, reference, update = step_flops(sizes)
    work = (rollout + reference + update) / 1e12
    return Plan(
        processes=processes,
        parameters=sizes.parameters,
        trained=trained,
        weights_gb=own * (sizes.size if config.use_peft else 4) / GB,  # what is trained is float32
        reference_gb=0.0 if config.use_peft else (own + whole_head) * sizes.size / GB,
        gradients_gb=trained * 4 / sizes.shards / GB,
        optimizer_gb=2 * trained * 4 / sizes.shards / GB,
        activations_gb=activation_bytes(sizes) / GB,
        # Policy, its log and gradient; the same of the KL.
        logits_gb=6 * logits_at_once(sizes, sizes.rows) * 4 / GB,
        experience_gb=experience_bytes(sizes) / GB,
        sampling_gb=sampling_bytes(sizes) / GB,
        engine_gb=engine_bytes(sizes) / GB,
        process_gb=PROCESS / GB,
        rollout_tflop=rollout / 1e12,
        reference_tflop=reference / 1e12,
        update_tflop=update / 1e12,
        seconds=work / tflops / processes if tflops else None,
    )


def activation_bytes(sizes: Sizes) -> float:
    """Of the largest pass with gradients."""
    config, shape, length = sizes.config, sizes.shape, sizes.length
    checkpointing = config.gradient_checkpointing
    one = sizes.layer_bytes(1.0 if sizes.all_rows_learn else sizes.mlp_ratio)
    layers = one * shape.layers
    if checkpointing:
        layers = length * shape.hidden * sizes.size * shape.layers + one
    probes = 128 * shape.heads * sizes.prompt * 4 * 2 if config.objective.sparsity_weight else 0
    total = sizes.rows * (layers + probes * (1 if checkpointing else shape.layers))
    if sizes.all_rows_learn:
        # Scores of one layer and sample, a chunk at a time (bfloat16 is for GPUs), or keys and
        # values repeated for all heads.
        device = "cuda" if config.bf16 else "cpu"
        scores = BYTES_PER_SCORE * min(shape.heads * length**2, chunk_size(device))
        repeated = 2 * sizes.rows * length * sizes.size * shape.head * shape.heads
        total += max(scores, repeated)
    return total


def sampling_bytes(sizes: Sizes) -> float:
    """Of the largest pass without gradients: gathered weights, KV cache, a layer, logits.

    The rollouts of a question are sampled together, each layer cutting its cache to what the
    fullest of them keeps; the reference has each prompt's cache once per answer. What vLLM sampled
    is scored in one pass.
    """
    config, shape, size = sizes.config, sizes.shape, sizes.size
    together = config.num_generations * max(1, sizes.rows // config.num_generations)
    gathered = (sizes.parameters - sizes.visual) * size if sizes.shards > 1 else 0
    fullest = 1.0 if config.dense_share else sizes.ratio
    cached = shape.sparse * (fullest * sizes.prompt + sizes.completion) + sizes.prompt
    token = 2 * shape.kv_heads * shape.head * size
    # Logits and their log in float32; their exponential and its cumulative sum in float64.
    next_token = sizes.vocabulary * 24
    layer = sizes.prompt * shape.hidden * size + sizes.layer_bytes(sizes.mlp_ratio)
    sampling = together * (cached * token + next_token + layer)
    logits = logits_at_once(sizes, together) * (size + 8)
    if config.rollouts == "vllm":
        # The engine takes over an adapter's weights merged, in the float32 of the adapter.
        merged = 4 * shape.layers * (shape.inward + shape.outward) if config.use_peft else 0
        sampling = max(together * layer + logits, merged)
    reference = together * shape.sparse * sizes.length * token + logits
    return gathered + max(sampling, reference)


def engine_bytes(sizes: Sizes) -> float:
    """Of vLLM: its part of a GPU (bfloat16 is for GPUs); on a CPU its weights and its KV cache for
    the longest rollouts of a question.

    Raises InputError for a part that does not hold the weights and one rollout.
    """
    config = sizes.config
    if config.rollouts != "vllm":
        return 0
    from zipr1.training.vllm_rollouts import GPU_MEMORY
    from zipr1.vllm.serve import LONGEST

    longest = (config.max_prompt_length or sizes.positions) + sizes.completion
    longest = min(longest, sizes.positions, LONGEST)
    weights = sizes.parameters * sizes.size
    if not config.bf16:
        return weights + config.num_generations * kv_bytes(sizes.shape, longest, itemsize=4)
    part, least = GPU_MEMORY * config.memory * GB, weights + kv_bytes(sizes.shape, longest, 2)
    if part < least:
        raise InputError(
            f"rollouts=vllm: the engine gets {part / GB:.1f} GB of memory={config.memory:g}, and its "
            f"weights and one rollout take {least / GB:.1f} GB; take a GPU with more memory, or set "
            "rollouts to transformers"
        )
    return part


def logits_at_once(sizes: Sizes, rows: int) -> int:
    """Of completions, at most (`token_logits.TokenStates.pieces`)."""
    most = max(MOST_LOGITS, rows * sizes.vocabulary)
    return min(rows * sizes.completion * sizes.vocabulary, most)


def experience_bytes(sizes: Sizes) -> float:
    """Of a step's rollouts in one process: embeddings of the prompts, log-probabilities of the
    reference, and its hidden states where the KL is over the vocabulary."""
    config, width = sizes.config, sizes.shape.hidden
    embedding = sizes.size if config.fsdp or config.use_peft else 4
    states = width * sizes.size if config.objective.kl != "sampled" else 0
    row = sizes.prompt * width * embedding + sizes.completion * (4 + states)
    return sizes.rollouts // sizes.processes * row


def step_flops(sizes: Sizes) -> tuple[float, float, float]:
    """Of the rollouts, the reference and the update, in all processes; without an adapter's own work,
    about a hundredth of a large model's."""
    config, shape = sizes.config, sizes.shape
    head = 2 * sizes.completion * sizes.vocabulary * shape.hidden
    dense = decoder_flops(shape, sizes.length) + head
    sampled = decoder_flops(shape, sizes.length, [sizes.ratio] * shape.sparse, config.scope) + head
    if config.rollouts == "vllm":
        sampled *= 2  # the policy scores what the engine sampled
    prompt = decoder_flops(shape, sizes.prompt)
    own_answer = config.completions == "sampled" and (
        not config.data or config.objective.asks_reference
    )
    answers = sizes.rollouts + (config.prompts_per_step if own_answer else 0)
    reference = config.prompts_per_step * prompt + answers * (dense - prompt)
    kept = 1.0 if sizes.all_rows_learn else sizes.ratio
    learned = decoder_flops(shape, sizes.length, [kept] * shape.sparse, config.scope) + head
    update = (4 if config.gradient_checkpointing else 3) * learned
    if config.use_peft:  # frozen weights get no gradient; attention has no weights
        rows = 1.0 if config.scope == "keys" else kept
        update -= learned - shape.sparse * attention_flops(shape, sizes.length) * kept * rows
    update *= sizes.rollouts * config.num_iterations
    if config.objective.kl != "sampled":  # the reference's distributions, made in the loss
        update += sizes.rollouts * head * config.num_iterations
    return sizes.rollouts * sampled, reference, update
