"""An image or a video from a file, whichever it is. Nothing is substituted for a broken one."""

from pathlib import Path

from zipr1.data.display import FrameSize
from zipr1.data.images import read_image
from zipr1.data.source import MediaError, MediaFile, MissingMedia, NotAnImage, media_file
from zipr1.data.videos import read_video

__all__ = ["MediaError", "MissingMedia", "NotAnImage", "read_image", "read_media", "read_video"]


def read_media(
    source: str | Path | MediaFile, max_frames: int, frame_size: FrameSize | None = None
) -> dict:
    """The fields of an Example: an `image`, or the `frames` of a video with their `times`.

    The content decides which, not the name; animations are videos. At most `max_frames` frames are
    read, evenly spaced in time; `frame_size` as for `read_video`. Raises MediaError, MissingMedia.
    """
    file = media_file(source)
    try:
        return {"image": read_image(file)}
    except NotAnImage:
        video = read_video(file, max_frames, frame_size=frame_size)
    return {"frames": video.frames, "fps": video.fps, "times": video.times}
