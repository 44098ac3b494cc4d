"""The prompt of `zipr1 answer`: files from the command line, the chat, and the model's inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from os.path import isdir

import numpy as np
from PIL import Image
from transformers import BatchFeature

from zipr1.common.errors import InputError
from zipr1.data.example import Video
from zipr1.data.images import read_image
from zipr1.data.processor import frame_size, tensors
from zipr1.data.source import MediaError, MediaFile, NotAnImage, short
from zipr1.data.videos import read_video
from zipr1.inference.config import AnswerConfig
from zipr1.inference.given import media_file, question_of_input
from zipr1.inference.places import placed_files
from zipr1.models.loading import load_processor

Media = Image.Image | Video


@dataclass(frozen=True)
class Prompt:
    """The images and videos of a question in their order, the chat that names them, and the
    question as it was asked."""

    media: tuple[Media, ...]
    chat: list[dict]
    question: str

    def inputs(self, processor) -> BatchFeature:
        """A batch of one for the model. Raises InputError as `data.processor.tensors`."""
        images = [one for one in self.media if not isinstance(one, Video)]
        videos = [one for one in self.media if isinstance(one, Video)]
        return tensors(processor, [self.chat], images, videos)


def read_prompt(config: AnswerConfig) -> Prompt:
    """Reads every file; no weights are loaded. Raises MediaError, which names a faulty file."""
    files = [media_file(text) for text in config.files]
    media = read_media(files, config.max_frames, cache(lambda: load_processor(config.model)))
    question = question_of_input() if config.question == "-" else config.question
    return prompt_of(media, question, config.system)


def read_media(files: list[MediaFile], max_frames: int, processor: Callable) -> tuple[Media, ...]:
    """Images and videos; processor: as of `read`."""
    for file in files:
        if file.data is None and isdir(file.name):
            raise MediaError(f"{short(file.name)}: a folder; give the files in it")
        file.open().close()  # all files are found before one of them is decoded
    return tuple(read(file, max_frames, processor) for file in files)


def prompt_of(media: tuple[Media, ...], question: str, system: str | None) -> Prompt:
    """The media come before the question, or where <image> and <video> in it stand, as in rows.

    Raises InputError for a question that names other media than the files.
    """
    kinds = ["video" if isinstance(one, Video) else "image" for one in media]
    parts, order = placed_files(question, kinds, system or "")
    media = tuple(media[place] for place in order)
    return Prompt(media, [*system_turn(system), {"role": "user", "content": parts}], question)


def read(file: MediaFile, max_frames: int, processor: Callable) -> Media:
    """An image or a video, as its content says. Only a video needs the processor, which says how
    many frames it takes and how large the model sees them."""
    try:
        return read_image(file)
    except NotAnImage:
        kind = getattr(processor(), "video_processor", None)
        limit = getattr(kind, "max_frames", max_frames)
        return read_video(file, min(max_frames, limit), frame_size=frame_size(processor()))


def system_turn(text: str | None) -> list[dict]:
    return [] if text is None else [{"role": "system", "content": [{"type": "text", "text": text}]}]


def grids(prompt: Prompt, inputs: BatchFeature, processor) -> list[tuple[int, int, int]]:
    """(frame pairs, rows, columns) in visual tokens, of each image and video in its order.

    Raises InputError for a model whose processor does not say where its visual tokens lie.
    """
    found = []
    sizes = {
        "image": iter(inputs.get("image_grid_thw", ())),
        "video": iter(inputs.get("video_grid_thw", ())),
    }
    for one in prompt.media:
        kind = "video" if isinstance(one, Video) else "image"
        grid = next(sizes[kind], None)
        if grid is None:
            raise InputError("--picture: this model does not say where its visual tokens lie")
        merge = getattr(processor, f"{kind}_processor").merge_size
        t, h, w = grid.tolist()
        found.append((t, h // merge, w // merge))
    return found


def tiles(
    prompt: Prompt, kept: np.ndarray, sizes: list[tuple[int, int, int]]
) -> list[tuple[Image.Image, np.ndarray]]:
    """What `overlay.kept_pages` draws: each image, and the first frame of each pair of a video.

    kept: (layers, V) bool, which visual tokens each layer kept, in the order of the prompt.
    """
    found, start = [], 0
    for one, (pairs, rows, columns) in zip(prompt.media, sizes, strict=True):
        count = pairs * rows * columns
        masks = kept[:, start : start + count].reshape(-1, pairs, rows, columns).astype(float)
        frames = one.frames if isinstance(one, Video) else (one,)
        step = max(len(frames) // pairs, 1)
        found += [(frames[i * step], masks[:, i]) for i in range(pairs)]
        start += count
    return found
