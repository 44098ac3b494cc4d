"""Any pixels of an image file as 8 bits of sRGB."""

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from zipr1.data.source import MediaError

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF
COLOUR_SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # mode -> in a profile
SAME = 2  # levels by which the profiles of different programs for sRGB differ


def to_rgb(image: Image.Image, file: Image.Image, name: str) -> Image.Image:
    """A decoded image in RGB, on a white page where it is transparent (as in Qwen's own reader).

    `file` is the image as it was opened, which knows its format. Raises MediaError, which names
    `name`, for numbers without an agreed black and white.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = eight_bits(image, file, name)
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, in_srgb(image.convert("RGBA"), image)).convert("RGB")
    if image.mode == "P":
        return in_srgb(image.convert("RGB"), image)
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, lab, srgb(), outputMode="RGB")
    return in_srgb(image, image).convert("RGB")


def eight_bits(image: Image.Image, file: Image.Image, name: str) -> Image.Image:
    """16 bits of grey as 8. Raises MediaError for 12, 24 or 32 bits and for floating point."""
    tags = getattr(file, "tag_v2", {})
    sixteen = image.mode.startswith("I;16") or file.format in ("PNG", "PPM")
    if image.mode == "F" or not sixteen or tags.get(BITS_PER_SAMPLE, (16,))[0] != 16:
        kind = "floating-point" if image.mode == "F" else "integer"
        raise MediaError(
            f"{name}: {kind} pixels (mode {image.mode}) without an agreed black and white; convert "
            "it to 8 or 16 bits"
        )
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = 65535 - values
    grey = Image.fromarray((values // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def in_srgb(image: Image.Image, original: Image.Image) -> Image.Image:
    """Converts by the colour profile of the file. Without one, with one that changes nothing, as
    those of sRGB, and with a broken or unfitting one, which viewers ignore, the pixels stay."""
    data = original.info.get("icc_profile")
    if not data:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        if profile.profile.xcolor_space != COLOUR_SPACES.get(image.mode):
            return image
        if changes_nothing(data, profile.profile.xcolor_space):
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, profile, srgb(), outputMode=mode)
    except (ImageCms.PyCMSError, OSError):
        return image


@lru_cache(maxsize=16)
def changes_nothing(data: bytes, space: str) -> bool:
    """Whether a profile of that colour space gives the greys and 216 colours as sRGB does. Its name
    does not tell: there are "Linear sRGB" and "sRGB-elle-V4-g10"."""
    if space == COLOUR_SPACES["CMYK"]:
        return False
    before = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)
    if space == COLOUR_SPACES["RGB"]:
        cube = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), -1)
        before = np.concatenate([before, cube.reshape(-1, 3)])
    colours = Image.fromarray(before[None])
    profile = ImageCms.ImageCmsProfile(BytesIO(data))
    after = ImageCms.profileToProfile(
        colours if space == COLOUR_SPACES["RGB"] else colours.convert("L"),
        profile, srgb(), outputMode="RGB",
    )  # fmt: skip
    return np.abs(np.asarray(after)[0].astype(int) - before).max() <= SAME


def srgb() -> ImageCms.ImageCmsProfile:
    """The profile that everything is converted to."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
