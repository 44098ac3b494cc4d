"""Sequence packing for pretraining: several questions after one image, none of which attends to
another."""

import torch

from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.tasks.base import Scene

IGNORE = -100


def pack(
    processor, scenes: list[Scene] | list[Example], questions: list[list[tuple[str, str]]]
) -> dict:
    """The processor's tensors: several (question, answer) of a scene after its image or video.

    As turns of one conversation a later question could be answered from earlier answers without
    looking: a trial learned just that. All scenes have one size, so all prefixes have one length.

    input_ids (B, L): prefix (up to the end of the visual tokens) and one segment a question.
    segment (B, L): 0 prefix, 1.. questions, -1 padding. offset (B, L): position in the segment.
    labels (B, L): next-token labels of the answers with their <|im_end|>, IGNORE elsewhere.
    """
    tokenizer = processor.tokenizer
    vision_end = tokenizer.convert_tokens_to_ids("<|vision_end|>")
    examples = [Example(scene.id, "", "", "", scene.image, scene.frames) for scene in scenes]
    inputs = dict(prepare(processor, examples))
    prefix = inputs["input_ids"][0].tolist().index(vision_end) + 1
    rows = [
        [
            token
            for number, (question, answer) in enumerate(scene_questions, 1)
            for token in segment_tokens(tokenizer, number, question, answer)
        ]
        for scene_questions in questions
    ]
    longest = max(len(row) for row in rows)
    padding = (tokenizer.pad_token_id, -1, 0, IGNORE)
    packed = torch.tensor([row + [padding] * (longest - len(row)) for row in rows])  # (B, S, 4)
    head = inputs["input_ids"][:, :prefix]
    types = inputs["mm_token_type_ids"][:, :prefix]
    zeros = torch.zeros_like(packed[:, :, 0])
    inputs |= {
        "input_ids": torch.cat([head, packed[:, :, 0]], dim=1),
        "attention_mask": torch.ones(len(rows), prefix + longest, dtype=torch.long),
        "mm_token_type_ids": torch.cat([types, zeros.to(types.dtype)], dim=1),
        "segment": torch.cat([torch.zeros_like(head), packed[:, :, 1]], dim=1),
        "offset": torch.cat([torch.zeros_like(head), packed[:, :, 2]], dim=1),
        "labels": torch.cat([torch.full_like(head, IGNORE), packed[:, :, 3]], dim=1),
    }
    return inputs


def segment_tokens(
    tokenizer, number: int, question: str, answer: str
) -> list[tuple[int, int, int, int]]:
    """(token, segment, offset, label) of a question with its answer."""
    prompt = tokenizer.encode(
        f"{question}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    completion = [*tokenizer.encode(answer, add_special_tokens=False), end]
    labels = [IGNORE] * (len(prompt) - 1) + completion + [IGNORE]
    tokens = zip(prompt + completion, labels, strict=True)
    return [(token, number, offset, label) for offset, (token, label) in enumerate(tokens)]


def isolate(embeds: dict, segment: torch.Tensor, offset: torch.Tensor) -> dict:
    """The decoder's input with positions and mask under which each question follows the prefix
    directly and attends to nothing else."""
    prefix = int((segment[0] == 0).sum())
    positions = embeds["position_ids"].clone()
    positions[:, :, prefix:] = positions[:, :, prefix - 1 : prefix] + 1 + offset[:, prefix:]
    same = (segment[:, :, None] == segment[:, None, :]) | (segment == 0)[:, None, :]
    mask = same & torch.ones(same.shape[1:], dtype=torch.bool).tril()
    return {
        "inputs_embeds": embeds["inputs_embeds"],
        "position_ids": positions,
        "attention_mask": mask[:, None],
    }
