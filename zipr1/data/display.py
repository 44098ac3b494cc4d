"""A decoded frame as a player shows it: true colours, square pixels, upright."""

from collections.abc import Callable

import numpy as np
import torch
from av import VideoFrame
from PIL import Image
from torchvision.transforms import v2

from zipr1.data.hdr import HDR_TRANSFERS, tone_mapped
from zipr1.data.source import MediaError

# (frames, height, width) of a video -> (height, width) at which a model sees its frames.
FrameSize = Callable[[int, int, int], tuple[int, int]]

FULL_RANGE = 2  # AVCOL_RANGE_JPEG
SWS_DEFAULT = 5  # SWS_CS_DEFAULT, ITU-R BT.601
MATRICES = (1, 4, 7, 9, 10)  # AVColorSpace: BT.709, FCC, SMPTE 240M and BT.2020
MOST_STRETCHED = 16  # sample aspect ratio, of real cameras and discs at most 2.2
# (a, b, c, d) of a display matrix, where x' = a x + c y and y' = b x + d y -> transposition.
ORIENTATIONS = {
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def displayed(
    frame: VideoFrame, stream, count: int, frame_size: FrameSize | None, name: str
) -> Image.Image:
    """The frame of a video of `count` sampled frames, shrunk to what a model sees of it.

    Raises MediaError for an orientation or a pixel shape that cannot be shown.
    """
    if stream.codec_context.color_trc in HDR_TRANSFERS:
        image = tone_mapped(frame, stream.codec_context.color_trc)
    else:
        image = rgb(frame)
    image = square(image, stream, name)
    transposition = orientation(frame, name)
    if transposition is not None:
        image = image.transpose(transposition)
    return fitted(image, count, frame_size)


def rgb(frame: VideoFrame) -> Image.Image:
    """By the colour matrix and the range that the video is tagged with, on a white page."""
    if any(component.is_alpha for component in frame.format.components):
        pixels = Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA")
        page = Image.new("RGBA", pixels.size, "white")
        return Image.alpha_composite(page, pixels).convert("RGB")
    full = frame.color_range == FULL_RANGE and frame.format.name.startswith(("yuv4", "yuva4"))
    if not full and frame.colorspace not in MATRICES:
        return frame.to_image()
    colours = {"src_colorspace": frame.colorspace, "dst_colorspace": SWS_DEFAULT}
    if frame.colorspace not in MATRICES:
        colours["src_colorspace"] = SWS_DEFAULT
    if full or frame.format.name.startswith("yuvj"):
        colours |= {"src_color_range": FULL_RANGE, "dst_color_range": 1}
    return frame.to_image(**colours)


def square(image: Image.Image, stream, name: str) -> Image.Image:
    """Widened where pixels are wider than high, as players do. Raises MediaError."""
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1
    if ratio == 1 or ratio <= 0:
        return image
    if not 1 / MOST_STRETCHED <= ratio <= MOST_STRETCHED:
        raise MediaError(f"{name}: pixels {float(ratio):g} times as wide as high; write it again")
    return image.resize(
        (max(1, round(image.width * ratio)), image.height), Image.Resampling.BICUBIC
    )


def orientation(frame: VideoFrame, name: str) -> Image.Transpose | None:
    """What turns the frame upright, by the display matrix of phones. Raises MediaError."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    matrix = np.frombuffer(bytes(data), dtype=np.int32).reshape(3, 3)[:2, :2] / 65536
    scale = np.sqrt(abs(np.linalg.det(matrix)))
    turn = tuple((matrix / scale).round(2).ravel().tolist()) if scale > 0 else None
    if turn not in ORIENTATIONS:
        raise MediaError(f"{name}: turned by no multiple of 90 degrees; write it again upright")
    return ORIENTATIONS[turn]


def fitted(image: Image.Image, count: int, frame_size: FrameSize | None) -> Image.Image:
    """One of `count` frames, not larger than a model sees it: resized as Qwen's video processors
    resize, so that they find nothing left to do."""
    if frame_size is None:
        return image
    height, width = frame_size(count, image.height, image.width)
    if height * width >= image.height * image.width:
        return image
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    pixels = v2.functional.resize(
        pixels, [height, width], interpolation=v2.InterpolationMode.BICUBIC, antialias=True
    )
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
