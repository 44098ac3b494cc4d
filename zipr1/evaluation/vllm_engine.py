"""`zipr1 eval --engine vllm`: the same questions and records, answered by vLLM.

The prompts are those of the transformers engine, token for token; a model whose prompts differ is
refused.
"""

import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from transformers import GenerationConfig

from zipr1.common.errors import InputError, RunError
from zipr1.common.scope import Scope
from zipr1.data.example import Example, Video
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
        """As `generation.generate`; errors as `generate`."""
        inputs = prepare(processor, examples, raw=settings.raw)
        prompts, names = prompts_of(processor, examples, settings.raw), [one.id for one in examples]
        length = settings.max_new_tokens
        outputs, ratios, kept = self.generate(names, prompts, inputs, rule, settings.scope, length)
        ids = [list(output.outputs[0].token_ids) for output in outputs]
        texts = tokenizer_of(processor).batch_decode(ids, skip_special_tokens=True)
        lengths = inputs["attention_mask"].sum(-1).tolist()
        clipped = [output.outputs[0].finish_reason == "length" for output in outputs]
        masks = [()] * len(examples)
        if kept is not None:
            masks = visual_masks(processor, examples, inputs, kept)
        columns = (examples, texts, ids, ratios.tolist(), lengths, clipped, masks)
        return [Answer(*row[:-1], *row[-1]) for row in zip(*columns, strict=True)]

    def generate(
        self, names: list[str], prompts: list[dict], inputs, rule: Rule | None, scope: Scope, length
    ) -> tuple[list, np.ndarray, list[np.ndarray] | None]:
        """Greedy answers of up to `length` tokens: vLLM's outputs, the token ratios (B, layers) and,
        under a rule, the kept columns of `inputs`, the processor's left-padded batch.

        Raises InputError for a rule that vLLM does not have, and RunError where its prompt is
        another one; `names` are those of the questions.
        """
        outputs = self.llm.generate(prompts, self.sampling(rule, scope, length), use_tqdm=False)
        check_prompts(names, inputs["input_ids"], inputs["attention_mask"], outputs)
        layers = self.llm.model_config.hf_text_config.num_hidden_layers
        if rule is None:
            return outputs, np.ones((len(outputs), layers), np.float32), None
        mask = inputs["attention_mask"].numpy().astype(bool)
        kept = kept_columns(mask, outputs, layers)
        counts = np.stack([one.sum(-1) for one in kept], -1)
        # In float32, as PyTorch divides them.
        return outputs, counts.astype(np.float32) / mask.sum(-1, dtype=np.float32)[:, None], kept

    def sampling(self, rule: Rule | None, scope: Scope, length: int):
        """Greedy, with what generate() takes from generation_config.json."""
        from vllm import SamplingParams

        suppressed = self.generation.suppress_tokens or ()
        return SamplingParams(
            temperature=0,
            max_tokens=length,
            repetition_penalty=self.generation.repetition_penalty or 1.0,
            logit_bias=dict.fromkeys(suppressed, -100) or None,
            extra_args=request_of(rule, scope),
        )


def prompts_of(processor, examples: list[Example], raw: bool) -> list[dict]:
    """Questions as vLLM takes them. raw: without a chat template."""
    texts = [one.question for one in examples]
    if not raw:
        texts = texts_of(processor, [conversation(one) for one in examples], True)
    videos = [[] if one.frames is None else [one.video] for one in examples]
    media = zip(texts, (one.all_images for one in examples), videos, strict=True)
    return [prompt_of(*one) for one in media]


def prompt_of(text: str, images: Sequence[Image], videos: Sequence[Video]) -> dict:
    """A rendered prompt with its images and videos, as vLLM takes it."""
    media: dict = {"image": list(images)} if images else {}
    if videos:
        media["video"] = [video_of(one) for one in videos]
    return {"prompt": text} | ({"multi_modal_data": media} if media else {})


def video_of(video: Video) -> tuple[np.ndarray, dict]:
    video = paired(video)
    frames = np.stack([np.asarray(frame.convert("RGB")) for frame in video.frames])
    metadata = {"duration": len(frames) / video.fps, "do_sample_frames": False}
    return frames, video.metadata | metadata | {"video_backend": "opencv"}


def check_prompts(names: list[str], ids: torch.Tensor, mask: torch.Tensor, outputs) -> None:
    """Raises RunError where vLLM made another prompt than the processor: ids (B, L), of which -1
    stands for any token, and mask (B, L) of a left-padded batch."""
    for name, row, real, output in zip(names, ids, mask.bool(), outputs, strict=True):
        own, theirs = row[real].tolist(), output.prompt_token_ids
        if len(own) != len(theirs) or any(
            a not in (-1, b) for a, b in zip(own, theirs, strict=True)
        ):
            raise RunError(
                f"{name}: vLLM's prompt has {len(theirs)} tokens, not the {len(own)} of the "
                "processor; use this model with transformers, not vLLM"
            )


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


@contextmanager
def vllm_engine(name: str, scope: Scope, **options):
    """(engine, processor) of a model, in this process, until the block is left. options: of
    vllm.LLM."""
    check_installed()
    with servable(name) as folder:
        config = load_config(folder)
        length = min(config.get_text_config().max_position_embeddings, LONGEST)
        options = {"dtype": "float32" if name in EMBEDDED else "auto"} | options
        try:
            generation = GenerationConfig.from_pretrained(locate(folder)[0])
        except OSError:  # no generation_config.json: as from_pretrained of a model
            generation = GenerationConfig.from_model_config(config)
        with running(folder, scope, length, CPU_PROMPTS, **options) as llm:
            yield VllmEngine(llm, generation), load_processor(folder)


@contextmanager
def running(folder: str | Path, scope: Scope, length: int, prompts: int, **options):
    """A `vllm.LLM` in this process, until the block is left. length: the longest prompt and answer;
    prompts: how many of that length its KV cache holds on a CPU; options: of vllm.LLM."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns of its own calls, a page a step
    from vllm import LLM

    config = load_config(folder)
    settings = engine_arguments(scope, length) | {"seed": 0, "disable_log_stats": True}
    if is_vision(config):
        settings["limit_mm_per_prompt"] = {"image": 16, "video": 1}
    if not torch.cuda.is_available():  # else vLLM reserves nearly all memory of the machine
        room = kv_bytes(Shape.of(config.get_text_config()), length, itemsize=4)
        settings["kv_cache_memory_bytes"] = int(prompts * room)
    llm = LLM(str(folder), **settings | options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
