"""From an Example, or a file, to the tensors of a Qwen-VL processor. Nothing is substituted: what cannot be read, raises."""

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch.nn.functional import pad
from transformers import BatchFeature

from zipr1.data.example import Example
from zipr1.models.loading import tokenizer_of


def conversation(example: Example, turns: list[tuple[str, str]] | None = None) -> list[dict]:
    """The chat of one example: its pictures or clip and the question, or several `turns` of (question, answer)."""
    if example.messages:
        return list(example.messages)
    media = [{"type": "image"}] * len(example.pictures) + [{"type": "video"}] * (
        example.frames is not None
    )
    if turns is None:
        return [{"role": "user", "content": [*media, {"type": "text", "text": example.question}]}]
    chat = []
    for question, answer in turns:
        chat.append({"role": "user", "content": [*media, {"type": "text", "text": question}]})
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        media = []
    return chat


def limit_pixels(processor, max_pixels: int | None, video_max_pixels: int | None) -> None:
    """Makes the processor shrink larger pictures, and frames of clips (of Qwen3-VL whole clips); None leaves its own limit."""
    for name, most in (("image_processor", max_pixels), ("video_processor", video_max_pixels)):
        part = getattr(processor, name, None)  # a text model's has none
        if part is not None and most is not None:  # called edges, they are areas
            part.size = {
                "shortest_edge": min(part.size["shortest_edge"], most),
                "longest_edge": most,
            }


def prepare(
    processor, examples: list[Example], chats: list[list[dict]] | None = None, raw: bool = False
):
    """A left-padded batch (BatchFeature) for `examples`; `chats` replaces the single-question conversation of each, `raw` takes
    the questions as they are, without a chat template.

    Raises ValueError from the processor for a chat whose media are missing, and for a question that cannot be taken as it is.
    """
    images = [picture for example in examples for picture in example.pictures]
    clips = [(example.frames, example.fps) for example in examples if example.frames is not None]
    if raw:
        check_text(images, clips)
        if any(example.messages for example in examples):
            raise ValueError(
                "a chat needs a chat template: give a plain text as prompt, or set chat_template: true"
            )
        texts = [example.question for example in examples]
        return tokenizer_of(processor)(
            text=texts, padding=True, padding_side="left", return_tensors="pt"
        )
    prompts = chats is None
    chats = chats or [conversation(example) for example in examples]
    return tensors(processor, chats, images, clips, prompts)


def check_text(images: list, clips: list) -> None:
    """Raises ValueError where there is more than text."""
    if images or clips:
        raise ValueError(
            "a text model sees no pictures or clips: use a Qwen-VL model, or rows without media"
        )


def tensors(
    processor,
    chats: list[list[dict]],
    images: list[Image.Image],
    clips: list[tuple],
    prompts: bool = True,
):
    """A left-padded batch of chats; `images` and `clips` (frames, frames a second) in the order in which the chats name them.

    All in one call of the processor, so that input_ids, pixel_values, grids and mm_token_type_ids agree. `prompts`: the
    assistant is to speak next. Raises ValueError for a chat that the model's template refuses.
    """
    if processor is tokenizer_of(processor):  # templates of text models take plain strings
        check_text(images, clips)
        chats = [
            [turn | {"content": "".join(part["text"] for part in turn["content"])} for turn in chat]
            for chat in chats
        ]
    try:
        text = processor.apply_chat_template(chats, add_generation_prompt=prompts, tokenize=False)
    except TemplateError as error:
        raise ValueError(
            f"the model's chat template refuses the chat ({error}): mend its roles"
        ) from error
    media = {}
    if images:
        media["images"] = images
    if clips:
        media["videos"] = [
            np.stack([np.asarray(frame.convert("RGB")) for frame in frames]) for frames, _ in clips
        ]
        media["video_metadata"] = [
            {
                "fps": fps,
                "total_num_frames": len(frames),
                "frames_indices": list(range(len(frames))),
            }
            for frames, fps in clips
        ]
        media["do_sample_frames"] = False
    return processor(text=text, **media, padding=True, padding_side="left", return_tensors="pt")


def collate(processor, parts: list) -> BatchFeature:
    """One left-padded batch of single prompts."""
    longest = max(part["input_ids"].shape[1] for part in parts)
    fill = {"input_ids": tokenizer_of(processor).pad_token_id}
    together = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [torch.as_tensor(part[name]) for part in parts if name in part]
        if name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            values = [
                pad(value, (longest - value.shape[1], 0), value=fill.get(name, 0))
                for value in values
            ]
        together[name] = torch.cat(values)
    return BatchFeature(together)


def visual_grid(inputs, row: int, processor) -> tuple[int, int, int]:
    """(frame pairs, rows, columns) in visual tokens of the picture or clip in a batch of one each."""
    name, merge = ("image_grid_thw", processor.image_processor.merge_size)
    if name not in inputs:
        name, merge = ("video_grid_thw", processor.video_processor.merge_size)
    t, h, w = inputs[name][row].tolist()
    return t, h // merge, w // merge
