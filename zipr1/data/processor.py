"""From an Example, or a file, to the tensors of a model's processor."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.data.collate import collate
from zipr1.data.example import Example, Video
from zipr1.data.special_tokens import check_special_tokens
from zipr1.models.loading import tokenizer_of

MOST_ELONGATED = 200  # of Qwen's and GLM's processors: the longer side of an image by the shorter
# GLM's images and videos have the same token, and SmolVLM's the same name of their tensors.
IMAGES_OR_VIDEOS = ("Glm4vProcessor", "Glm46VProcessor", "SmolVLMProcessor")
PADDED = {"padding": True, "padding_side": "left", "return_tensors": "pt"}


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
    """Makes the processor shrink larger images, and larger frames of videos (of Qwen3-VL and GLM:
    larger videos); None leaves its own limit. Raises InputError where it has none."""
    limits = {"max_pixels": max_pixels, "video_max_pixels": video_max_pixels}
    for name, (setting, most) in zip(
        ("image_processor", "video_processor"), limits.items(), strict=True
    ):
        part = getattr(processor, name, None)  # a text model's has none
        if part is None or most is None:
            continue
        if not has_pixel_bounds(part):
            raise InputError(
                f"{setting}={most}: {type(part).__name__} has no bound of pixels; leave it out"
            )
        part.size = {  # called edges, they are areas
            "shortest_edge": min(part.size["shortest_edge"], most),
            "longest_edge": most,
        }


def has_pixel_bounds(part) -> bool:
    """Whether the `size` of an image or video processor bounds the number of pixels, as those of
    Qwen-VL and GLM-V do; elsewhere the same names are sides in pixels."""
    return hasattr(part, "merge_size") and {"shortest_edge", "longest_edge"} <= {*dict(part.size)}


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

    Raises InputError for a question that cannot be taken as it is.
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
        return tokenizer_of(processor)(text=texts, **PADDED)
    prompts = chats is None
    chats = chats or [conversation(example) for example in examples]
    return tensors(processor, chats, images, videos, prompts)


def check_text_only(images: list, videos: list) -> None:
    """Raises InputError where there is more than text."""
    if images or videos:
        raise InputError(
            "a text model sees no images or videos: use a vision model, or rows without media"
        )


def check_media(processor, images: list[Image.Image], videos: list[Video]) -> None:
    """Raises InputError for images and videos of one chat that its model cannot be shown."""
    kind = type(processor).__name__
    if videos and not hasattr(processor, "video_processor"):
        raise InputError(f"{kind} takes no videos: give images, or use another model")
    if images and videos and kind in IMAGES_OR_VIDEOS:
        raise InputError(
            f"{kind} takes images or videos in one prompt, not both: "
            f"{len(images)} images and {len(videos)} videos"
        )
    if not hasattr(processor.image_processor, "merge_size"):
        if len({len(video.frames) for video in videos}) > 1:
            raise InputError(f"{kind} takes videos of equally many frames in one prompt")
        return
    for image in [*images, *(video.frames[0] for video in videos)]:
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

    `prompts`: the assistant's turn comes next. Raises InputError for a chat that the model's
    template refuses, with text that would be read as one of its special tokens, or with other
    media than are there.
    """
    for chat in chats:
        check_special_tokens(processor, chat)
    if processor is tokenizer_of(processor):  # templates of text models take plain strings
        check_text_only(images, videos)
        chats = [
            [turn | {"content": "".join(part["text"] for part in turn["content"])} for turn in chat]
            for chat in chats
        ]
        return processor(text=texts_of(processor, chats, prompts), **PADDED)
    # One chat a call: which images belong together, and SmolVLM's template, depend on the chat.
    left = {"image": list(images), "video": list(videos)}
    parts = [chat_tensors(processor, chat, left, prompts) for chat in chats]
    if left["image"] or left["video"]:
        raise InputError(
            f"{len(left['image'])} images and {len(left['video'])} videos more than the chats name"
        )
    return parts[0] if len(parts) == 1 else collate(processor, parts)


def chat_tensors(processor, chat: list[dict], left: dict[str, list], prompts: bool):
    """The tensors of one chat, whose media are taken from the front of `left`; errors as
    `tensors`."""
    named = [part.get("type") for turn in chat for part in turn["content"]]
    media = {}
    for kind, there in left.items():
        count = named.count(kind)
        if count > len(there):
            raise InputError(f"the chat names {count} {kind}s, but {len(there)} are there")
        media[kind], there[:] = there[:count], there[count:]
    check_media(processor, media["image"], media["video"])
    arguments = {}
    if media["image"]:
        arguments["images"] = [media["image"]]
    if media["video"]:
        joins = hasattr(processor.video_processor, "temporal_patch_size")
        shown = [paired(video) if joins else video for video in media["video"]]
        arrays = [np.stack([np.asarray(f.convert("RGB")) for f in one.frames]) for one in shown]
        # (T, 3, H, W): of (T, H, W, 3) a processor guesses by the sizes which are the colours.
        arguments["videos"] = [[array.transpose(0, 3, 1, 2) for array in arrays]]
        arguments["video_metadata"] = [video.metadata for video in shown]
        arguments["do_sample_frames"] = False
    text = texts_of(processor, [chat], prompts)
    for kind, given in media.items():
        token = getattr(processor, f"{kind}_token", None)
        if token and text[0].count(token) != len(given):
            raise InputError(
                f"the model's chat template shows {text[0].count(token)} {kind}s of {len(given)}: "
                "use the template that belongs to the model"
            )
    try:
        inputs = processor(text=text, **arguments, **PADDED)
    except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:  # of its settings too
        raise refused(processor, media, str(error)) from error
    names = ("image_token_id", "video_token_id")
    shown = [
        (inputs["input_ids"] == (getattr(processor, name, None) or -1)).sum() for name in names
    ]
    if (media["image"] or media["video"]) and not any(shown):
        raise refused(processor, media, "its tokenizer does not know the tokens of images")
    if type(processor).__name__ == "PixtralProcessor" and shown[0] == 1:
        raise refused(processor, media, "Mistral3 fails on a single visual token")
    return inputs


def refused(processor, media: dict[str, list], reason: str) -> InputError:
    """The error for media that a processor, or its model, cannot be given."""
    sizes = [image.size for image in media["image"]]
    sizes += [video.frames[0].size for video in media["video"]]
    shown = ", ".join(f"{width} x {height} pixels" for width, height in sizes[:4])
    return InputError(
        f"{type(processor).__name__} does not take the chat with its media ({shown}): "
        f"{reason[:200]}; resize or crop them"
    )


def texts_of(processor, chats: list[list[dict]], prompts: bool) -> list[str]:
    """The chats in the model's template. Raises InputError for one that it refuses."""
    try:
        return processor.apply_chat_template(chats, add_generation_prompt=prompts, tokenize=False)
    except TemplateError as error:
        raise InputError(
            f"the model's chat template refuses the chat ({error}): fix its roles"
        ) from error
    except (ValueError, TypeError) as error:  # there is none, or it is damaged
        raise InputError(
            f"the model's chat template cannot be used ({str(error)[:200]})"
        ) from error


def paired(video: Video) -> Video:
    """A video of one frame shows it twice: Qwen-VL joins frames in pairs, and Qwen3-VL's processor
    refuses a single one, where those before it repeat it."""
    return Video(video.frames * 2, video.fps, (0.0, 0.0)) if len(video.frames) == 1 else video


def visual_grid(inputs, row: int, processor) -> tuple[int, int, int]:
    """(frame pairs, rows, columns) in visual tokens of the image or video of `row`, in a batch with
    one of them for each row."""
    name, merge = ("image_grid_thw", processor.image_processor.merge_size)
    if name not in inputs:
        name, merge = ("video_grid_thw", processor.video_processor.merge_size)
    t, h, w = inputs[name][row].tolist()
    return t, h // merge, w // merge
