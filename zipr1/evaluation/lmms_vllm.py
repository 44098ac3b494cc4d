"""Answers inside lmms-eval by vLLM, `--model_args pretrained=...,engine=vllm`."""

import atexit
from contextlib import ExitStack

import torch

from zipr1.common.errors import InputError
from zipr1.common.scope import Scope
from zipr1.evaluation.vllm_engine import VllmEngine, vllm_engine
from zipr1.sparsity.rules import Rule

GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1}


def check_vllm(processes: int, attn_implementation: str | None, pixels: tuple) -> None:
    """Raises InputError for arguments that the engine does not take."""
    if processes > 1:
        raise InputError(f"engine=vllm: one process, not {processes}")
    if attn_implementation:
        raise InputError(
            f"attn_implementation={attn_implementation}: vLLM has its own; leave it out"
        )
    if any(bound is not None for bound in pixels):
        raise InputError(
            "engine=vllm: reads the pixel bounds of the model's folder (preprocessor_config.json); "
            "set them there, not as arguments"
        )


def start_vllm(pretrained: str, scope: Scope, dtype: str | None) -> tuple:
    """(engine, processor), until the process ends: lmms-eval does not say when it is done."""
    stack = ExitStack()
    atexit.register(stack.close)
    options = {"dtype": dtype} if dtype else {}
    return stack.enter_context(vllm_engine(pretrained, scope, **options))


def generate_in_vllm(
    engine: VllmEngine, questions: tuple, rule: Rule | None, scope: Scope, settings: dict
) -> tuple[list[list[int]], list[float]]:
    """The tokens of each answer, and the token ratios. questions: names, prompts and the tensors of
    a batch; settings: as `generation_settings` gives them.

    Raises InputError for settings that are not greedy.
    """
    if any(settings.get(name, value) != value for name, value in GREEDY.items()):
        raise InputError(
            f"engine=vllm: answers greedily, the task asks for {settings}; set engine=transformers"
        )
    length = settings["max_new_tokens"]
    outputs, ratios, _ = engine.generate(*questions, rule, scope, length)
    tokens = [list(output.outputs[0].token_ids) for output in outputs]
    return tokens, torch.from_numpy(ratios).mean(-1).tolist()
