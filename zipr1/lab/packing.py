"""Several questions behind one picture, blind to each other: what pretraining feeds the model."""

import torch

from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.tasks.base import Scene

IGNORE = -100


def pack(
    processor, scenes: list[Scene] | list[Example], questions: list[list[tuple[str, str]]]
) -> dict:
    """Several questions of each scene behind one picture or clip, none of which sees another.

    As turns of one conversation a later question could be answered from earlier answers, without looking: a trial
    learned just that. Returns the processor's tensors with `input_ids` (B, L) = prefix (up to the end of the visual tokens)
    + one segment a question, and `segment` (B, L): 0 prefix, 1.. questions, -1 padding; `offset` (B, L): place within the
    segment; `labels` (B, L): next-token labels of the answers with their <|im_end|>, the rest ignored.
    All scenes have one size, so all prefixes are equally long.
    """
    tokenizer = processor.tokenizer
    vision_end, end = tokenizer.convert_tokens_to_ids(["<|vision_end|>", "<|im_end|>"])
    examples = [Example(scene.id, "", "", "", scene.image, scene.frames) for scene in scenes]
    inputs = dict(prepare(processor, examples))
    prefix = inputs["input_ids"][0].tolist().index(vision_end) + 1
    rows = []
    for scene_questions in questions:
        row = []  # (token, segment, offset, label)
        for number, (question, answer) in enumerate(scene_questions, 1):
            asked = tokenizer.encode(
                f"{question}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
            )
            told = [*tokenizer.encode(answer, add_special_tokens=False), end]
            following = [IGNORE] * (len(asked) - 1) + told + [IGNORE]
            tokens = zip(asked + told, following, strict=True)
            row += [(token, number, place, label) for place, (token, label) in enumerate(tokens)]
        rows.append(row)
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


def isolate(embeds: dict, segment: torch.Tensor, offset: torch.Tensor) -> dict:
    """Positions and mask under which each question stands alone right behind the prefix."""
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
