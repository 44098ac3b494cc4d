"""Greedy answers to batches of questions, through generate() as any user would call it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from zipr1.common.errors import InputError
from zipr1.data.example import Example
from zipr1.data.processor import prepare, visual_grid
from zipr1.evaluation.config import MAX_NEW_TOKENS
from zipr1.evaluation.input_baselines import Shortener, without_minimum
from zipr1.evaluation.records import packed
from zipr1.models.encode import check_length
from zipr1.models.families import sparse_layers
from zipr1.models.loading import tokenizer_of
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import Rule


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are generated.

    batch_size: questions of one pass. scope: of `zipr1.sparse`. raw: prompts without a chat
    template. synced: all processes generate until the last has finished, as sharded weights need.
    quiet: no progress bar.
    """

    batch_size: int = 25
    max_new_tokens: int = MAX_NEW_TOKENS
    scope: str = "attention"
    raw: bool = False
    synced: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer to one question; its other fields are those of `records.Record`."""

    example: Example
    text: str
    token_ids: list[int]  # without padding
    layer_ratios: list[float]
    tokens: int
    clipped: bool  # had not ended at the largest length
    grid: tuple[int, int, int] | None = None
    kept: tuple[str, ...] | None = None


def batches(examples: list[Example], size: int) -> Iterator[list[Example]]:
    """Batches of images or of videos, never of both: the prompt of a video is twice as long."""
    for video in (False, True):
        alike = [example for example in examples if (example.frames is not None) == video]
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def ended(token_ids: list[int], model, tokenizer) -> bool:
    """Whether an answer ends with a token that ends the turn."""
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    return bool(token_ids) and token_ids[-1] in ends


@torch.no_grad()
def generate(
    model,
    processor,
    examples: list[Example],
    rule: Rule | Shortener | None,
    settings: GenerationSettings,
) -> list[Answer]:
    """The answers to one batch under a rule; None is dense attention.

    model: of transformers, or an engine that generates by itself (`evaluation.vllm_engine`). Raises
    InputError for a prompt that is too long for the model.
    """
    if hasattr(model, "generate_answers"):
        return model.generate_answers(processor, examples, rule, settings)
    inputs = prepare(processor, examples, raw=settings.raw).to(model.device)
    lengths = inputs["attention_mask"].sum(-1)
    shortener = as_shortener(rule)
    if shortener:
        inputs = shortened(processor, examples, inputs, shortener).to(model.device)
    check_length(model, inputs, settings.max_new_tokens)
    options = {
        "max_new_tokens": settings.max_new_tokens,
        "do_sample": False,
        "synced_gpus": settings.synced,
    }
    if rule is None or shortener:
        layers = len(sparse_layers(model.config, type(model).__name__))
        out, kept = model.generate(**inputs, **options), None
        ratios = (inputs["attention_mask"].sum(-1) / lengths)[:, None].expand(-1, layers)
    else:
        with sparse(model, rule, scope=settings.scope) as trace:
            out, ratios = model.generate(**inputs, **options), trace.layer_ratios
            kept = [layer.cpu().numpy() for layer in trace.kept]
    tokenizer = tokenizer_of(processor)
    new = out[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    ids = [row[row != tokenizer.pad_token_id].tolist() for row in new]
    masks = (
        [()] * len(examples) if kept is None else visual_masks(processor, examples, inputs, kept)
    )
    clipped = [
        len(row) == settings.max_new_tokens and not ended(row, model, tokenizer) for row in ids
    ]
    columns = (examples, texts, ids, ratios.tolist(), lengths.tolist(), clipped, masks)
    return [Answer(*row[:-1], *row[-1]) for row in zip(*columns, strict=True)]


def visual_masks(processor, examples: list[Example], inputs, kept: list) -> list[tuple]:
    """For each question (grid, kept) of `records.Record`; empty where one of the batch has several
    images or videos, or none, and for models whose visual tokens have no grid."""
    media = [sum(media_counts(example)) for example in examples]
    if any(count != 1 for count in media) or not has_grid(inputs):
        return [()] * len(examples)
    visual = inputs["mm_token_type_ids"].bool().cpu().numpy()
    return [
        (visual_grid(inputs, i, processor), tuple(packed(layer[i][visual[i]]) for layer in kept))
        for i in range(len(examples))
    ]


def has_grid(inputs) -> bool:
    """Whether the processor says how the visual tokens lie in rows and columns, as those of Qwen-VL and GLM-V do."""
    names = ("image_grid_thw", "video_grid_thw")
    return "mm_token_type_ids" in inputs and any(name in inputs for name in names)


def media_counts(example: Example) -> tuple[int, int]:
    """The numbers of images and videos of a question."""
    return len(example.all_images), int(example.frames is not None)


def as_shortener(rule: Rule | Shortener | None) -> Shortener | None:
    """The rule, if it shortens the prompt itself."""
    return rule if hasattr(rule, "shorten") else None


def shortened(processor, examples: list[Example], inputs, shortener: Shortener):
    """The tensors of a batch after `shortener`; `inputs` are those of the whole prompts.

    Raises InputError for a model whose visual tokens have no grid.
    """
    if not has_grid(inputs):
        raise InputError(
            "downsample and fewer_frames need a model of a Qwen-VL or GLM-V family, whose visual "
            "tokens lie in rows and columns"
        )
    part = processor.image_processor if "image_grid_thw" in inputs else processor.video_processor
    cell = part.patch_size * part.merge_size
    shorter = [
        shortener.shorten(example, visual_grid(inputs, i, processor), cell)
        for i, example in enumerate(examples)
    ]
    return prepare(without_minimum(processor), shorter)
