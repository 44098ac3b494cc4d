"""Images and videos from files. Nothing is substituted: what cannot be read raises MediaError."""

from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from zipr1.data.example import CLIP_FPS


class MediaError(ValueError):
    """A picture or a clip that cannot be read; the message names the file and the reason."""


class MissingMedia(MediaError):
    """A row of a data set names a picture or a clip that is not there."""


class NotStill(MediaError):
    """A file that is no picture, or one that moves."""


def read_media(path: str | Path, max_frames: int) -> dict:
    """Reads a picture (`image`) or a clip (`frames`, at most `max_frames`, evenly spaced, and their `fps`) from a file.

    Raises FileNotFoundError or MediaError; the content decides what it is, not the name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a picture or a clip")
    try:
        return {"image": read_picture(path)}
    except NotStill:
        pass  # a clip, or nothing that can be read
    frames, fps = read_clip(path, max_frames)
    return {"frames": frames, "fps": fps}


def read_picture(source: str | Path | bytes, name: str | Path = "") -> Image.Image:
    """A still picture in RGB, from a file or from its bytes, which errors call `name`. Raises MediaError."""
    name = name or source
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            # An MPO of a camera is a JPEG with a second view, or a depth map, behind it.
            count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            picture = opaque(image) if count == 1 else None
    except UnidentifiedImageError as error:
        raise NotStill(f"{name}: not a picture; give a file that opens in a viewer") from error
    except (
        OSError,
        SyntaxError,
        EOFError,
        ValueError,
        TypeError,
        RuntimeError,
        Image.DecompressionBombError,
    ) as error:
        raise MediaError(
            f"{name}: broken picture ({error}); give a file that opens in a viewer"
        ) from error
    if picture is None:
        raise NotStill(
            f"{name}: {count} pictures in one file; give a single one, or a clip as a clip"
        )
    return picture


def opaque(image: Image.Image) -> Image.Image:
    """In RGB: what is transparent is white, as in Qwen's own reader, and 16 bits of grey are not cut off at 8."""
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image.convert("RGBA")).convert("RGB")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image.convert("RGB")


def promise(container) -> tuple[float, float]:
    """(seconds of video that the header of a container promises, 0 if none; seconds from one frame to the next)."""
    stream = container.streams.video[0]
    if stream.duration and container.format.name.startswith(("mov", "avi")):
        seconds = float(stream.duration * stream.time_base)
    elif container.duration and container.format.name.startswith("matroska"):
        seconds = container.duration / av.time_base
    else:  # a GIF, say, holds its last frame for as long as it likes
        seconds = 0.0
    return seconds, 1 / float(stream.average_rate) if stream.average_rate else seconds


def spaced(times: list[float | None], max_frames: int, fps: float | None) -> list[int]:
    """Which frames of a clip are read, by the times at which they are shown."""
    if not times:
        return []
    seconds = (times[-1] or 0) - (times[0] or 0)
    count = min(max_frames, len(times), *([max(2, int(seconds * fps) + 1)] if fps else []))
    count -= count % 2 if count > 1 else 0
    return np.linspace(0, len(times) - 1, count).round().astype(int).tolist()


def read_clip(
    source: str | Path | bytes, max_frames: int, fps: float | None = None, name: str | Path = ""
) -> tuple[tuple[Image.Image, ...], float]:
    """Evenly spaced frames of a clip, first and last included, and how many of them there are a second.

    At most `max_frames`, and no more than `fps` a second but for two at least; an even number, because Qwen-VL joins frames in
    pairs, but for a clip of one frame or a `max_frames` of 1. Every frame is decoded, only those are kept. A file that does not
    say when its frames are shown is taken for CLIP_FPS. `source` is a file or its bytes, which errors call `name`. Raises
    MediaError, also for a file of which less than half is there.
    """
    name = name or source

    def opened():
        container = av.open(
            BytesIO(source) if isinstance(source, bytes) else str(source), metadata_errors="replace"
        )
        for stream in container.streams.video[:1]:
            if stream.codec_context is None:  # to decode it would end the process
                raise MediaError(f"{name}: a codec that is not known here; write it as H.264")
            stream.thread_type = "AUTO"
        return container

    try:
        with opened() as container:
            if not container.streams.video:
                raise MediaError(f"{name}: no video stream; give a picture or a clip")
            promised, interval = promise(container)
            # Undecoded, a packet stands for a frame in nearly every file; where it does not, what it led to is read again.
            times = sorted(
                float((packet.pts or 0) * packet.time_base)
                for packet in container.demux(video=0)
                if packet.size
            )
        for _ in range(2):
            wanted = spaced(times, max_frames, fps)
            chosen, times, kept = set(wanted), [], []
            with opened() as container:
                for i, frame in enumerate(container.decode(video=0)):
                    times.append(frame.time)
                    kept += [frame.to_image()] if i in chosen else []
            if spaced(times, max_frames, fps) == wanted:
                break
        else:
            raise MediaError(
                f"{name}: {len(times)} frames, but not each time that it is read; write the file again"
            )
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(
            f"{name}: neither a readable picture nor a readable clip ({reason})"
        ) from error
    if not times:
        raise MediaError(f"{name}: a clip without frames; give one with at least one frame")
    if times[-1] is not None and times[-1] + interval < promised / 2:
        raise MediaError(
            f"{name}: cut short, ends after {times[-1]:.1f} of {promised:.1f} seconds; download it again"
        )
    seconds = (times[-1] or 0) - (times[0] or 0)
    return tuple(kept), (len(kept) - 1) / seconds if seconds > 0 and len(kept) > 1 else CLIP_FPS
