"""Still images from files, as every viewer shows them: upright, in sRGB, on a white page."""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from zipr1.common.errors import RunError
from zipr1.data.content import is_heif
from zipr1.data.pixels import to_rgb
from zipr1.data.source import HEAD, MediaError, MediaFile, NotAnImage, media_file, short
from zipr1.data.whole_images import whole_images_only

# Stubs without a decoder, formats that start another program, and a video format.
EXCLUDED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
ANIMATIONS = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
# Formats whose further images are a second view or the layers of the first.
ONE_IMAGE = frozenset({"MPO", "PSD", "ICO", "ICNS"})
# What Pillow's decoders raise for a broken file, as tests/data/test_fuzz_media.py shows: OSError or
# SyntaxError where they check the bytes of a header, the others where they use them unchecked.
BROKEN = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    TypeError,
    RuntimeError,
    LookupError,
    AssertionError,
    struct.error,
)
UNNAMED = MediaFile("an image in memory")
PREVIEW, DNG_VERSION = 254, 50706  # tags of TIFF: NewSubfileType, and the mark of a camera's raw


def read_image(source: str | Path | bytes | MediaFile, name: str | Path = "") -> Image.Image:
    """A still image in RGB from a file, or from its bytes, which errors call `name`.

    It is turned upright by its EXIF orientation, converted to sRGB by its colour profile, and
    what is transparent becomes white. Raises MediaError; NotAnImage for what may be a video.
    """
    file = media_file(source, name)
    with open_image(file) as image:
        return upright_rgb(image, file)


def upright_rgb(image: Image.Image, file: MediaFile = UNNAMED) -> Image.Image:
    """The same of an image that Pillow has opened but may not have decoded yet; `file` names it."""
    with decoding(file):
        count = 1 if image.format in ONE_IMAGE else getattr(image, "n_frames", 1)
    if count != 1:
        check_animation(image, count, file)
        raise NotAnImage(
            f"{short(file.name)}: {count} frames in one file; give a still image, or give the "
            "animation as a video"
        )
    check_whole(image, file)
    with decoding(file):
        return to_rgb(upright(image), image, short(file.name))


@contextmanager
def open_image(file: MediaFile) -> Iterator[Image.Image]:
    """The image before it is decoded. Raises NotAnImage for what Pillow does not know."""
    with file.open() as stream:
        heif = is_heif(stream.read(HEAD))
        stream.seek(0)
        with decoding(file, heif):
            image = Image.open(stream, formats=formats())
        with image:
            yield image


@contextmanager
def decoding(file: MediaFile, heif: bool = False) -> Iterator[None]:
    """Only calls of Pillow stand inside: what they raise for a broken file becomes MediaError."""
    try:
        with whole_images_only():
            yield
    except (MediaError, RunError):
        raise
    except UnidentifiedImageError as error:
        if heif:  # FFmpeg would decode one of its tiles
            raise MediaError(
                f"{short(file.name)}: a HEIC image, which Pillow does not decode; convert it to "
                "JPEG, or pip install pillow-heif"
            ) from error
        raise NotAnImage(
            f"{short(file.name)}: not an image; give a file that opens in an image viewer"
        ) from error
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))[0]  # in the text alone
        raise MediaError(
            f"{short(file.name)}: an image of {count} pixels, above the limit of "
            f"{2 * Image.MAX_IMAGE_PIXELS}; make it smaller"
        ) from error
    except BROKEN as error:
        reason = short(str(error) or type(error).__name__)
        raise MediaError(
            f"{short(file.name)}: broken image ({reason}); give a file that opens in a viewer"
        ) from error


@cache
def formats() -> list[str]:
    """What Pillow may decode, HEIC included where pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ModuleNotFoundError:
        pass
    else:
        register_heif_opener()
    Image.init()
    return [name for name in Image.ID if name not in EXCLUDED]


def check_animation(image: Image.Image, count: int, file: MediaFile) -> None:
    """Raises MediaError for several images in one file that are no animation."""
    if image.format not in ANIMATIONS:
        raise MediaError(
            f"{short(file.name)}: {count} pages in one {image.format} file; save the page that is "
            "meant as a file of its own"
        )


def check_whole(image: Image.Image, file: MediaFile) -> None:
    """Raises MediaError for a TIFF whose first image is only a preview of what it holds, and for a
    PNG that lacks its palette, which Pillow decodes as black."""
    if image.format == "PNG" and image.mode == "P" and image.palette is None:
        raise MediaError(
            f"{short(file.name)}: broken image (no palette before its pixels); write it again"
        )
    tags = getattr(image, "tag_v2", {})
    if DNG_VERSION in tags or tags.get(PREVIEW, 0) == 1:
        raise MediaError(
            f"{short(file.name)}: a camera's raw file, of which only the preview could be read; "
            "develop it to JPEG or PNG"
        )


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation wants it shown; viewers ignore EXIF data that is broken."""
    image.load()
    try:
        image.getexif()
    except BROKEN:
        return image
    return ImageOps.exif_transpose(image)
