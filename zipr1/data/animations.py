"""Animations that FFmpeg does not decode: WebP and AVIF, through Pillow."""

from zipr1.data.display import FrameSize, fitted
from zipr1.data.example import Video, sampled_video
from zipr1.data.images import decoding, open_image, upright
from zipr1.data.pixels import to_rgb
from zipr1.data.sampling import sample
from zipr1.data.source import MediaFile, short

DEFAULT_DURATION = 100  # ms of a frame that is to be shown for less than 20, as in browsers


def is_animation(file: MediaFile) -> bool:
    """Whether the file is of a format that is read here; it may hold a single image."""
    with file.open() as stream:
        head = stream.read(64)
    return (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or (
        head[4:8] == b"ftyp" and b"avi" in head[8:48]
    )


def read_animation(
    file: MediaFile, max_frames: int, fps: float | None, frame_size: FrameSize | None
) -> Video:
    """Its frames, sampled as those of a video. Raises MediaError."""
    begin, now = [], 0
    with open_image(file) as image, decoding(file):
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            begin.append(now / 1000)
            duration = image.info.get("duration") or 0
            now += duration if duration >= 20 else DEFAULT_DURATION
    indices, times = sample(begin, max_frames, fps)
    frames = {}
    with open_image(file) as image, decoding(file):
        for number in sorted(set(indices)):
            image.seek(number)
            frames[number] = fitted(
                to_rgb(upright(image), image, short(file.name)),
                len(indices),
                frame_size,
            )
    return sampled_video(tuple(frames[number] for number in indices), times)
