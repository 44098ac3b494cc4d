"""Rollouts by a vLLM engine in the process of the training (`zipr1 train --rollouts vllm`).

The engine takes over the policy's weights before each step, samples by the draws that
`training.sampling` would use, and returns the kept tokens; the policy then scores the completions
in one pass, so that the log-probabilities are its own.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer

from zipr1.common.errors import InputError
from zipr1.common.progress import announced
from zipr1.data.example import Example
from zipr1.evaluation.vllm_engine import (
    check_prompts,
    kept_columns,
    prompts_of,
    request_of,
    running,
)
from zipr1.models.encode import Encoded
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP
from zipr1.sparsity.settings import TrainingPass
from zipr1.training.config import TrainConfig
from zipr1.training.learner import Learner
from zipr1.training.rollout import Rollout, completion_states, pad_tokens, repeat
from zipr1.training.sampling import visual_placeholders
from zipr1.vllm.serve import LONGEST, check_installed

GPU_MEMORY = 0.3  # of a GPU: the engine's part; the training has the others


class VllmRollouts:
    """A RolloutEngine. raw: prompts have no chat template. close: ends the engine."""

    def __init__(self, llm, processor, raw: bool, close: Callable[[], None]):
        self.llm, self.processor, self.raw, self.close = llm, processor, raw, close

    def update(self, model) -> None:
        """Hands over the weights of the policy, an adapter merged, through `reload_weights` of
        vLLM's workers."""
        weights = iter(plain_weights(model).items())
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self.llm.reset_mm_cache()  # the workers forget images, so that the scheduler must too
        self.llm.llm_engine.reset_encoder_cache()

    @torch.no_grad()
    def sample(
        self,
        model,
        encoded: Encoded,
        rule: TopP,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        temperature: float,
        draws: torch.Tensor,
        scope: str,
    ) -> Rollout:
        """As `sampling.sample`. Raises RunError where vLLM makes another prompt."""
        group = len(rule.p) // len(examples)
        embeds, prompt_ids = repeat(encoded, group)
        ends = model.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        suppress = visual_placeholders(model)
        given = {"temperature": temperature, "suppress": suppress}
        params = [
            self.parameters(
                TopP(p, rule.choice), scope, max_new_tokens, ends, given | {"draws": row}
            )
            for p, row in zip(rule.p, draws.tolist(), strict=True)
        ]
        prompts = prompts_of(self.processor, list(examples), self.raw)
        prompts = [prompt for prompt in prompts for _ in range(group)]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        names = [example.id for example in examples for _ in range(group)]
        check_prompts(names, prompt_ids, embeds["attention_mask"], outputs)
        answers = [list(output.outputs[0].token_ids) for output in outputs]
        tokens, mask = pad_tokens(answers, 0, model.device)
        columns = embeds["attention_mask"].bool().cpu().numpy()
        layers = model.config.get_text_config().num_hidden_layers
        kept = kept_columns(columns, outputs, layers)
        zeros = torch.zeros(tokens.shape, device=model.device)
        rollout = Rollout(
            embeds,
            prompt_ids,
            rule.p,
            tokens,
            mask,
            clipped=torch.tensor([row[-1] not in ends for row in answers], device=model.device),
            logprobs=zeros,
            kept=[torch.from_numpy(layer).to(model.device) for layer in kept],
            token_ratio=zeros[:, 0],
            temperature=temperature,
            suppress=suppress,
        )
        return scored(model, rollout, rule, scope)

    def parameters(self, rule: TopP, scope: str, length: int, ends: list[int], given: dict):
        """The sampling parameters of one rollout; `given`: what `vllm_draws.Draws` takes."""
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0,
            max_tokens=length,
            ignore_eos=True,  # the end tokens are those of the model's generation config
            stop_token_ids=ends,
            detokenize=False,
            extra_args=request_of(rule, scope) | {"draws": given},
        )


def scored(model, rollout: Rollout, rule: TopP, scope: str) -> Rollout:
    """The rollout with its log-probabilities and token ratio under the policy, which replays the
    kept tokens."""
    replay = TrainingPass(replay=rollout.kept)
    with sparse(
        model, rule, scope=scope, prompt_length=rollout.prompt_length, training=replay
    ) as trace:
        logprobs = completion_states(model, rollout).logprobs(rollout.tokens)
    return replace(rollout, logprobs=logprobs, token_ratio=trace.token_ratio)


def plain_weights(model) -> dict[str, torch.Tensor]:
    """The state dict of the model as if it had no adapter: what LoRA adds is added."""
    weights = {
        name.replace(".base_layer", ""): weight.detach()
        for name, weight in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            for adapter in module.active_adapters:
                delta = module.get_delta_weight(adapter).detach()
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + delta
    return weights


@contextmanager
def vllm_rollouts(config: TrainConfig, learner: Learner, longest: int):
    """The engine, until the block is left. longest: tokens of a prompt.

    Raises InputError for a model whose weights cannot be handed over.
    """
    check_installed()
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # it takes other logits processors
    from zipr1.training.vllm_draws import Draws
    from zipr1.vllm.models import ARCHITECTURES

    model, processor = learner.model, learner.processor
    if config.fsdp or learner.layout:
        raise InputError("rollouts=vllm: needs whole weights; leave out fsdp and DeepSpeed")
    name = type(model).__name__
    if name not in ARCHITECTURES or "Moe" in name:
        raise InputError(
            f"rollouts=vllm: {model.config.model_type}: not tried whether vLLM takes over its "
            "weights; set rollouts to transformers"
        )
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="zipr1-rollouts-"))
        length = min(longest + config.max_completion_length, LONGEST)
        options = {
            "dtype": "bfloat16" if config.bf16 else "float32",
            "enforce_eager": True,  # a compiled graph on a CPU would keep the packed old weights
            "enable_prefix_caching": False,  # blocks of other weights
            "gpu_memory_utilization": GPU_MEMORY,
            "logits_processors": [Draws],
        }
        with announced("starting vLLM"):
            write(model, processor, Path(folder))
            engine = running(folder, config.scope, length, config.num_generations, **options)
            llm = stack.enter_context(engine)
        yield VllmRollouts(llm, processor, not config.chat_template, stack.close)


def write(model, processor, folder: Path) -> None:
    """A folder that vLLM loads; its weights have the names that are handed over later."""
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_torch_state_dict(plain_weights(model), folder)
