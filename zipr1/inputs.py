"""From an Example, or a file, to the tensors of a Qwen-VL processor. Nothing is substituted: what cannot be read, raises."""

from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn.functional import pad
from transformers import BatchFeature

from zipr1.tasks.base import CLIP_FPS, Example


class MediaError(ValueError):
    """A picture or a clip that cannot be read; the message names the file and the reason."""


def conversation(example: Example, turns: list[tuple[str, str]] | None = None) -> list[dict]:
    """The chat of one example: the picture or clip and the question, or several `turns` of (question, answer)."""
    medium = {"type": "video"} if example.frames is not None else {"type": "image"}
    media = [medium] if example.frames is not None or example.image is not None else []
    if turns is None:
        return [{"role": "user", "content": [*media, {"type": "text", "text": example.question}]}]
    chat = []
    for question, answer in turns:
        chat.append({"role": "user", "content": [*media, {"type": "text", "text": question}]})
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        media = []
    return chat


def tokenizer_of(processor):
    """A text model's processor is its tokenizer."""
    return getattr(processor, "tokenizer", processor)


def prepare(processor, examples: list[Example], chats: list[list[dict]] | None = None, raw: bool = False):
    """A left-padded batch (BatchFeature) for `examples`; `chats` replaces the single-question conversation of each, `raw` takes
    the questions as they are, without a chat template.

    Raises ValueError from the processor for a chat whose media are missing.
    """
    if raw:
        texts = [example.question for example in examples]
        return tokenizer_of(processor)(text=texts, padding=True, padding_side="left", return_tensors="pt")
    prompts = chats is None
    chats = chats or [conversation(example) for example in examples]
    images = [example.image for example in examples if example.image is not None]
    clips = [(example.frames, example.fps) for example in examples if example.frames is not None]
    return tensors(processor, chats, images, clips, prompts)


def tensors(processor, chats: list[list[dict]], images: list[Image.Image], clips: list[tuple], prompts: bool = True):
    """A left-padded batch of chats; `images` and `clips` (frames, frames a second) in the order in which the chats name them.

    All in one call of the processor, so that input_ids, pixel_values, grids and mm_token_type_ids agree. `prompts`: the
    assistant is to speak next.
    """
    if processor is tokenizer_of(processor):  # templates of text models take plain strings
        chats = [[turn | {"content": "".join(part["text"] for part in turn["content"])} for turn in chat] for chat in chats]
    text = processor.apply_chat_template(chats, add_generation_prompt=prompts, tokenize=False)
    media = {}
    if images:
        media["images"] = images
    if clips:
        media["videos"] = [np.stack([np.asarray(frame.convert("RGB")) for frame in frames]) for frames, _ in clips]
        media["video_metadata"] = [
            {"fps": fps, "total_num_frames": len(frames), "frames_indices": list(range(len(frames)))} for frames, fps in clips
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
            values = [pad(value, (longest - value.shape[1], 0), value=fill.get(name, 0)) for value in values]
        together[name] = torch.cat(values)
    return BatchFeature(together)


def read_media(path: str | Path, max_frames: int) -> dict:
    """Reads a picture (`image`) or a clip (`frames`, at most `max_frames`, evenly spaced, and their `fps`) from a file.

    Raises FileNotFoundError or MediaError; the content decides what it is, not the name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a picture or a clip")
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) == 1:
                return {"image": image.convert("RGB")}
    except UnidentifiedImageError:
        pass  # not a picture: a clip, or nothing that can be read
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path}: broken picture ({error}); give a file that opens in a viewer") from error
    frames, fps = read_clip(path, max_frames)
    return {"frames": frames, "fps": fps}


def read_clip(path: str | Path, max_frames: int, fps: float | None = None) -> tuple[tuple[Image.Image, ...], float]:
    """Evenly spaced frames of a clip, first and last included, and how many of them there are a second.

    At most `max_frames`, and no more than `fps` a second but for two at least; an even number, because Qwen-VL joins frames in
    pairs, but for a clip of one frame or a `max_frames` of 1. Every frame is decoded, only those are kept. A file that does not
    say when its frames are shown is taken for CLIP_FPS. Raises MediaError.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise MediaError(f"{path}: no video stream; give a picture or a clip")
            container.streams.video[0].thread_type = "AUTO"
            times = [frame.time for frame in container.decode(video=0)]
        if not times:
            raise MediaError(f"{path}: a clip without frames; give one with at least one frame")
        seconds = (times[-1] or 0) - (times[0] or 0)
        count = min(max_frames, len(times), *([max(2, int(seconds * fps) + 1)] if fps else []))
        count -= count % 2 if count > 1 else 0
        wanted = np.linspace(0, len(times) - 1, count).round().astype(int).tolist()
        chosen = set(wanted)
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            kept = {i: frame.to_image() for i, frame in enumerate(container.decode(video=0)) if i in chosen}
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{path}: neither a readable picture nor a readable clip ({reason})") from error
    return tuple(kept[i] for i in wanted), (count - 1) / seconds if seconds > 0 and count > 1 else CLIP_FPS


def visual_grid(inputs, row: int, processor) -> tuple[int, int, int]:
    """(frame pairs, rows, columns) in visual tokens of the picture or clip in a batch of one each."""
    name, merge = ("image_grid_thw", processor.image_processor.merge_size)
    if name not in inputs:
        name, merge = ("video_grid_thw", processor.video_processor.merge_size)
    t, h, w = inputs[name][row].tolist()
    return t, h // merge, w // merge
