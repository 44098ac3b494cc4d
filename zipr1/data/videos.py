"""Videos from files: sampled frames, decoded by seeking to them."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.stream import Disposition
from PIL import Image

from zipr1.data.animations import is_animation, read_animation
from zipr1.data.display import FrameSize, displayed
from zipr1.data.example import VIDEO_FPS, Video, sampled_video
from zipr1.data.images import read_image
from zipr1.data.packets import Packets, list_packets
from zipr1.data.sampling import sample
from zipr1.data.source import MediaError, MediaFile, media_file, short
from zipr1.data.transparent import decoded_frames
from zipr1.data.whole_files import check_end

# A playlist may name other files and addresses; none of them is opened.
OPTIONS = {"protocol_whitelist": "none"}
MAX_FRAME_PIXELS = str(2**27)  # a broken header may ask for any amount of memory
BUFFER = 2**18  # bytes that FFmpeg reads at a time

Show = Callable[[av.VideoFrame], Image.Image]


def read_video(
    source: str | Path | bytes | MediaFile,
    max_frames: int,
    fps: float | None = None,
    name: str | Path = "",
    frame_size: FrameSize | None = None,
) -> Video:
    """At most `max_frames` frames, evenly spaced in time, the first and the last one included.

    Not more than `fps` a second, but at least two; an even number, because Qwen-VL joins frames in
    pairs, except for a video of one frame and for a `max_frames` of 1. `source` is a file or its
    bytes, which errors call `name`. `frame_size` says how large a model sees frames: larger ones
    are shrunk while decoding. Raises MediaError, also for a file of which a part is missing.
    """
    file = media_file(source, name)
    video = sampled_frames(file, max_frames, fps, frame_size)
    sizes = dict.fromkeys(frame.size for frame in video.frames)
    if len(sizes) > 1:
        shown = " and ".join(f"{width} x {height}" for width, height in [*sizes][:2])
        raise MediaError(
            f"{short(file.name)}: frames of {shown} pixels; write it again at one size"
        )
    return video


def sampled_frames(
    file: MediaFile, max_frames: int, fps: float | None, frame_size: FrameSize | None
) -> Video:
    """As `read_video`, of frames that may have several sizes."""
    if is_animation(file):
        return read_animation(file, max_frames, fps, frame_size)
    try:
        with opened(file) as (container, stream):
            if container.format.name.endswith("_pipe"):  # a still image
                return sampled_video((read_image(file),), (0.0,))
            check_end(file, container.format.name)
            packets = list_packets(container, stream, short(file.name))
            if packets.seekable:
                indices, times = sample(packets.times, max_frames, fps)
                frames = seek(
                    container,
                    stream,
                    packets,
                    indices,
                    lambda frame: displayed(
                        frame, stream, len(indices), frame_size, short(file.name)
                    ),
                    short(file.name),
                )
                if frames:
                    return sampled_video(frames, times)
        return decode_all(file, packets.times, max_frames, fps, frame_size)
    except MediaError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(
            f"{short(file.name)}: neither a readable image nor a readable video ({reason})"
        ) from error


@contextmanager
def opened(file: MediaFile) -> Iterator[tuple]:
    """(container, its video stream, the default one of several), ready to be decoded. Raises
    MediaError."""
    with (
        file.open() as binary,
        av.open(
            binary, container_options=OPTIONS, metadata_errors="replace", buffer_size=BUFFER
        ) as container,
    ):
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover of a song
        ]
        if not streams:
            raise MediaError(f"{short(file.name)}: no video stream; give an image or a video")
        marked = (stream for stream in streams if stream.disposition & Disposition.default)
        stream = next(marked, streams[0])
        if stream.codec_context is None:  # to decode it would end the process
            raise MediaError(
                f"{short(file.name)}: a video codec that FFmpeg does not know; convert it to H.264"
            )
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": MAX_FRAME_PIXELS}
        yield container, stream


def seek(
    container, stream, packets: Packets, indices: list[int], show: Show, name: str
) -> tuple[Image.Image, ...] | None:
    """The frames number `indices`, ascending, each decoded from the key frame before it.

    None where the file does not lead to exactly these frames: it has to be decoded as a whole.
    """
    images: dict[int, Image.Image] = {}
    key_pts = [pts for pts, _ in packets.keys]
    frames, position = None, None
    for target in dict.fromkeys(packets.pts[index] for index in indices):
        place = bisect_right(key_pts, target) - 1
        if place < 0:
            return None
        pts, dts = packets.keys[place]
        # Some formats seek by the time at which a frame is decoded, some by that at which it is
        # shown.
        starts = [pts, dts] if frames is None or position < pts else [None, dts]
        for start in starts:
            if start is not None:
                container.seek(start, stream=stream)
                frames = decoded_frames(container, stream, name)
            found = next((frame for frame in frames if (frame.pts or 0) >= target), None)
            if found is not None and found.pts == target and not found.is_corrupt:
                break
        else:
            return None
        position = target
        images[target] = show(found)
    return tuple(images[packets.pts[index]] for index in indices)


def decode_all(
    file: MediaFile,
    times: list[float],
    max_frames: int,
    fps: float | None,
    frame_size: FrameSize | None,
) -> Video:
    """Decodes from the first to the last frame and keeps the sampled ones. `times` are those of the
    packets: where a packet is no frame, the times of the frames are used in a second pass.

    Raises MediaError for a file without frames, or with other frames each time.
    """
    name = short(file.name)
    for _ in range(2):
        indices = sample(times, max_frames, fps)[0] if times else []
        chosen, images, begin = set(indices), {}, []
        with opened(file) as (container, stream):
            for i, frame in enumerate(decoded_frames(container, stream, name)):
                begin.append(frame.pts if frame.pts is not None else frame.dts)
                if i in chosen:
                    images[i] = displayed(frame, stream, len(indices), frame_size, name)
            time_base = float(stream.time_base or 0)
        if not begin:
            raise MediaError(f"{name}: a video without frames; give one with at least one frame")
        timed = None not in begin and (len(begin) == 1 or len(set(begin)) > 1)
        times = (
            sorted(pts * time_base for pts in begin) if timed else list(map(float, range(i + 1)))
        )
        again, shown = sample(times, max_frames, fps if timed else None)
        if again == indices:
            frames = tuple(images[i] for i in indices)
            # A file that does not say when its frames are shown is taken for VIDEO_FPS.
            return sampled_video(frames, shown) if timed else Video(frames, VIDEO_FPS)
    raise MediaError(
        f"{name}: {len(times)} frames, but not each time that it is decoded; write the file again"
    )
