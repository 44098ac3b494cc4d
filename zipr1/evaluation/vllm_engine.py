"""`zipr1 eval --engine vllm`: the same questions and records, answered by vLLM.

The prompts are those of the transformers engine, token for token; a model whose prompts differ is
refused.
"""

import os
from contextlib import contextmanager

import numpy as np
import torch
from transformers import GenerationConfig

from zipr1.common.errors import InputError, RunError
from zipr1.common.scope import Scope
from zipr1.data.example import Example
from zipr1.data.processor import conversation, paired, prepare, texts_of
from zipr1.evaluation.generation import Answer, GenerationSettings, visual_masks
from zipr1.models.families import is_vision
from zipr1.models.flops import Shape, kv_bytes
from zipr1.models.loading import load_config, load_processor, tokenizer_of
from zipr1.models.location import EMBEDDED, locate
from zipr1.sparsity.rules import Rule, TopK, TopP
from zipr1.vllm.request import PREFIX
from zipr1.vllm.serve import LONGEST, check_installed, engine_arguments, servable

CPU_PROMPTS = 2  # of the longest kind that fit into the KV cache on a CPU


class VllmEngine:
    """Stands where a model does in an evaluation."""

    def __init__(self, llm, generation: GenerationConfig):
        self.llm, self.generation = llm, generation

    def eval(self) -> "VllmEngine":
        return self

    def generate_answers(
        self, processor, examples: list[Example], rule: Rule | None, settings: GenerationSettings
    ) -> list[Answer]:
        """As `generation.generate`. Raises InputError for a rule that vLLM does not have, and
        RunError where its prompt is another one."""
        inputs = prepare(processor, examples, raw=settings.raw)
        lengths = inputs["attention_mask"].sum(-1).tolist()
        texts = [one.question for one in examples]
        if not settings.raw:
            texts = texts_of(processor, [conversation(one) for one in examples], True)
        prompts = [
            {"prompt": text, "multi_modal_data": media_of(one)}
            if media_of(one)
            else {"prompt": text}
            for text, one in zip(texts, examples, strict=True)
        ]
        params = self.sampling(settings, rule)
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        ids = [
            row[mask.bool()].tolist()
            for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        for example, own, output in zip(examples, ids, outputs, strict=True):
            if list(output.prompt_token_ids) != own:
                raise RunError(
                    f"{example.id}: vLLM's prompt has {len(output.prompt_token_ids)} tokens, not "
                    f"the {len(own)} of the processor; evaluate this model with --engine "
                    "transformers"
                )
        return self.answers(processor, examples, inputs, lengths, outputs, rule)

    def sampling(self, settings: GenerationSettings, rule: Rule | None):
        """Greedy, with what generate() takes from generation_config.json."""
        from vllm import SamplingParams

        suppressed = self.generation.suppress_tokens or ()
        return SamplingParams(
            temperature=0,
            max_tokens=settings.max_new_tokens,
            repetition_penalty=self.generation.repetition_penalty or 1.0,
            logit_bias=dict.fromkeys(suppressed, -100) or None,
            extra_args=request_of(rule, settings.scope),
        )

    def answers(self, processor, examples, inputs, lengths, outputs, rule) -> list[Answer]:
        tokenizer = tokenizer_of(processor)
        ids = [list(output.outputs[0].token_ids) for output in outputs]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        layers = self.llm.model_config.hf_text_config.num_hidden_layers
        ratios, masks = [[1.0] * layers] * len(examples), [()] * len(examples)
        if rule is not None:
            kept = kept_columns(inputs["attention_mask"].numpy().astype(bool), outputs, layers)
            counts = np.stack([one.sum(-1) for one in kept], -1)
            # In float32, as PyTorch divides them.
            ratios = counts.astype(np.float32) / np.array(lengths, np.float32)[:, None]
            ratios, masks = ratios.tolist(), visual_masks(processor, examples, inputs, kept)
        clipped = [output.outputs[0].finish_reason == "length" for output in outputs]
        columns = (examples, texts, ids, ratios, lengths, clipped, masks)
        return [Answer(*row[:-1], *row[-1]) for row in zip(*columns, strict=True)]


def kept_columns(mask: np.ndarray, outputs, layers: int) -> list[np.ndarray]:
    """Per layer (B, L) bool, the kept columns of a left-padded batch. mask: (B, L) bool."""
    kept = [mask.copy() for _ in range(layers)]
    for row, output in enumerate(outputs):
        said = output.kv_transfer_params["zipr1"]
        if "dense" in said:  # as `zipr1.sparse`, which keeps every token there
            continue
        columns = np.flatnonzero(mask[row])
        for layer, tokens in zip(kept, said["kept_tokens"], strict=True):
            layer[row] = False
            layer[row, columns[tokens]] = True
    return kept


def request_of(rule: Rule | None, scope: Scope) -> dict | None:
    """The request settings of a rule. Raises InputError for a rule that vLLM does not have."""
    if rule is None:
        return None
    if isinstance(rule, TopP) and isinstance(rule.p, float | int) and rule.masks == "shared":
        found = {"p": rule.p, "choice": rule.choice}
    elif isinstance(rule, TopK):
        found = {"ratio": rule.ratio}
    else:
        raise InputError(
            f"--engine vllm: {type(rule).__name__} is not served; its methods are full, zipvl and "
            "topk"
        )
    return {f"{PREFIX}{name}": value for name, value in found.items()} | {
        f"{PREFIX}scope": scope,
        f"{PREFIX}return_kept": 1,
    }


def media_of(example: Example) -> dict:
    """The images and the video of a question, as vLLM takes them."""
    found: dict = {"image": list(example.all_images)} if example.all_images else {}
    if example.frames is not None:
        video = paired(example.video)
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in video.frames])
        count = len(video.frames)
        metadata = video.metadata | {"duration": count / video.fps, "do_sample_frames": False}
        found["video"] = [(frames, metadata | {"video_backend": "opencv"})]
    return found


@contextmanager
def vllm_engine(name: str, scope: Scope):
    """(engine, processor) of a model, in this process, until the block is left."""
    check_installed()
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    with servable(name) as folder:
        from vllm import LLM

        config = load_config(folder)
        length = min(config.get_text_config().max_position_embeddings, LONGEST)
        options = engine_arguments(scope, length)
        if is_vision(config):
            options["limit_mm_per_prompt"] = {"image": 16, "video": 1}
        if not torch.cuda.is_available():  # else vLLM reserves nearly all memory of the machine
            room = kv_bytes(Shape.of(config.get_text_config()), length, itemsize=4)
            options["kv_cache_memory_bytes"] = int(CPU_PROMPTS * room)
        dtype = "float32" if name in EMBEDDED else "auto"
        llm = LLM(folder, dtype=dtype, seed=0, disable_log_stats=True, **options)
        generation = GenerationConfig.from_pretrained(locate(folder)[0])
        try:
            yield VllmEngine(llm, generation), load_processor(folder)
        finally:
            llm.llm_engine.engine_core.shutdown()
