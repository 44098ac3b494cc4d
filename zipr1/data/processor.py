"""From an Example, or a file, to the tensors of a model's processor."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from torch.nn.functional import pad
from transformers import BatchFeature

from zipr1.common.errors import InputError
from zipr1.data.example import Example, Video
from zipr1.data.special_tokens import check_special_tokens
from zipr1.models.loading import tokenizer_of

MOST_ELONGATED = 200  # of Qwen's processors: the longer side of an image by the shorter


def conversation(example: Example, turns: list[tuple[str, str]] | None = None) -> list[dict]:
    """The chat of one example: its images or its video and the question, or several `turns` of
    (question, answer)."""
    if example.messages:
        return list(example.messages)
    media = [{"type": "image"}] * len(example.all_images)
    media += [{"type": "video"}] * (example.frames is not None)
    if turns is None:
        return [{"role": "user", "content": [*media, {"type": "text", "text": example.question}]}]
    chat = []
    for question, answer in turns:
        chat.append({"role": "user", "content": [*media, {"type": "text", "text": question}]})
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        media = []
    return chat


def limit_pixels(processor, max_pixels: int | None, video_max_pixels: int | None) -> None:
    """Makes the processor shrink larger images, and larger frames of videos (of Qwen3-VL: larger
    videos); None leaves its own limit."""
    for name, most in (("image_processor", max_pixels), ("video_processor", video_max_pixels)):
        part = getattr(processor, name, None)  # a text model's has none
        if part is not None and most is not None:  # called edges, they are areas
            part.size = {
                "shortest_edge": min(part.size["shortest_edge"], most),
                "longest_edge": most,
            }


@dataclass(frozen=True)
class ProcessorFrameSize:
    """The size at which a video processor shows its model a frame: a FrameSize of `read_video`."""

    video_processor: object

    def __call__(self, count: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) of each of `count` frames, as the processor itself computes them; the
        given ones where it does not say, or refuses such frames."""
        if max(height, width) >= MOST_ELONGATED * min(height, width):
            return height, width
        return grid_size(self.video_processor, max(count, 2), height, width)


@lru_cache(maxsize=64)
def grid_size(video_processor, count: int, height: int, width: int) -> tuple[int, int]:
    """Runs the processor on a video without memory, on PyTorch's meta device."""
    video = torch.empty(count, 3, height, width, dtype=torch.uint8, device="meta")
    out = video_processor(videos=[video], do_sample_frames=False, return_tensors="pt")
    if "video_grid_thw" not in out:
        return height, width
    _, rows, columns = out["video_grid_thw"][0].tolist()
    return rows * video_processor.patch_size, columns * video_processor.patch_size


def frame_size(processor) -> ProcessorFrameSize | None:
    """How large a model sees the frames of a video; None for a text model."""
    part = getattr(processor, "video_processor", None)
    return None if part is None else ProcessorFrameSize(part)


def prepare(
    processor, examples: list[Example], chats: list[list[dict]] | None = None, raw: bool = False
):
    """A left-padded batch (BatchFeature) for `examples`. `chats` replaces the single-question
    conversation of each; `raw` takes the questions as they are, without a chat template.

    Raises InputError for a question that cannot be taken as it is, ValueError from the processor
    for a chat whose media are missing.
    """
    images = [image for example in examples for image in example.all_images]
    videos = [example.video for example in examples if example.frames is not None]
    if raw:
        check_text_only(images, videos)
        if any(example.messages for example in examples):
            raise InputError(
                "a chat needs a chat template: give a plain text as prompt, or set "
                "chat_template: true"
            )
        texts = [example.question for example in examples]
        return tokenizer_of(processor)(
            text=texts, padding=True, padding_side="left", return_tensors="pt"
        )
    prompts = chats is None
    chats = chats or [conversation(example) for example in examples]
    return tensors(processor, chats, images, videos, prompts)


def check_text_only(images: list, videos: list) -> None:
    """Raises InputError where there is more than text."""
    if images or videos:
        raise InputError(
            "a text model sees no images or videos: use a Qwen-VL model, or rows without media"
        )


def check_shape(media: list[Image.Image]) -> None:
    """Raises InputError for an image that Qwen's processors refuse."""
    for image in media:
        if max(image.size) >= MOST_ELONGATED * min(image.size):
            raise InputError(
                f"an image of {image.width} x {image.height} pixels: the longer side must be less "
                f"than {MOST_ELONGATED} times the shorter; crop it"
            )


def tensors(
    processor,
    chats: list[list[dict]],
    images: list[Image.Image],
    videos: list[Video],
    prompts: bool = True,
):
    """A left-padded batch of chats; `images` and `videos` in the order in which the chats name
    them.

    All in one call of the processor, so that input_ids, pixel_values, grids and mm_token_type_ids
    agree. `prompts`: the assistant's turn comes next. Raises InputError for a chat that the model's
    template refuses, or with text that would be read as one of its special tokens.
    """
    for chat in chats:
        check_special_tokens(tokenizer_of(processor), chat)
    if processor is tokenizer_of(processor):  # templates of text models take plain strings
        check_text_only(images, videos)
        chats = [
            [turn | {"content": "".join(part["text"] for part in turn["content"])} for turn in chat]
            for chat in chats
        ]
    check_shape([*images, *(video.frames[0] for video in videos)])
    try:
        text = processor.apply_chat_template(chats, add_generation_prompt=prompts, tokenize=False)
    except TemplateError as error:
        raise InputError(
            f"the model's chat template refuses the chat ({error}): fix its roles"
        ) from error
    media = {}
    if images:
        media["images"] = images
    if videos:
        pairs = [paired(video) for video in videos]
        media["videos"] = [
            np.stack([np.asarray(frame.convert("RGB")) for frame in video.frames])
            for video in pairs
        ]
        media["video_metadata"] = [video.metadata for video in pairs]
        media["do_sample_frames"] = False
    return processor(text=text, **media, padding=True, padding_side="left", return_tensors="pt")


def paired(video: Video) -> Video:
    """A video of one frame shows it twice: Qwen-VL joins frames in pairs, and Qwen3-VL's processor
    refuses a single one, where those before it repeat it."""
    return Video(video.frames * 2, video.fps, (0.0, 0.0)) if len(video.frames) == 1 else video


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
    """(frame pairs, rows, columns) in visual tokens of the image or video of `row`, in a batch with
    one of them for each row."""
    name, merge = ("image_grid_thw", processor.image_processor.merge_size)
    if name not in inputs:
        name, merge = ("video_grid_thw", processor.video_processor.merge_size)
    t, h, w = inputs[name][row].tolist()
    return t, h // merge, w // merge
