"""Images and videos as cameras and programs write them, made here."""

import struct
from fractions import Fraction

import av
import numpy as np


def grey(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Frame `number` of a video: every frame is brighter by 10."""
    return np.full((height, width, 3), 10 * number % 256, dtype=np.uint8)


def write_video(path, frames: int = 24, codec: str = "libx264", rate: int = 8, **settings) -> None:
    """A video of 64 x 48 pixels unless `draw` (frame number -> array) draws others. `times`: when
    frames begin, in ms; `pixels`: the pixel format; `options`: of the codec; `stream`: attributes
    of its codec context."""
    draw, times = settings.get("draw", grey), settings.get("times")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=settings.get("options", {}))
        stream.height, stream.width = draw(0).shape[:2]
        stream.pix_fmt = settings.get("pixels", "yuv420p")
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in settings.get("stream", {}).items():
            setattr(stream.codec_context, name, value)
        container.start_encoding()  # writes the header, also where no frame follows
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(i), "rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def levels(frames) -> list[int]:
    """The number of each frame of a video of `grey` frames."""
    return [round(np.asarray(frame).mean() / 10) for frame in frames]


def set_display_matrix(path, matrix: tuple[int, int, int, int]) -> None:
    """Writes (a, b, c, d) into the track header of an mp4, as phones do."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version 0
    a, b, c, d = (value * 65536 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def orange_corner(number: int = 0, width: int = 64, height: int = 48) -> np.ndarray:
    """Grey with an orange quarter at the top left."""
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    image[: height // 2, : width // 2] = (230, 120, 20)
    return image


def orange_at(image) -> str:
    """Where the orange quarter of an image is: "top left", ..."""
    pixels = np.asarray(image).astype(int)
    rows, columns = np.nonzero(pixels[..., 0] - pixels[..., 2] > 100)
    height, width = pixels.shape[:2]
    vertical = "top" if rows.mean() < height / 2 else "bottom"
    return f"{vertical} {'left' if columns.mean() < width / 2 else 'right'}"
