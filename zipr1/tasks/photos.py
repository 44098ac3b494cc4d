"""Backgrounds: crops of real photographs in the wheels of scikit-learn and scikit-image.

Source and licence: china.jpg (by danielbuechele) and flower.jpg (by vultilion), CC BY 2.0, in
scikit-learn; the others, in scikit-image, are CC0, public domain or without known copyright
restrictions, as the docstrings of `skimage.data` say. Only files inside the wheels are named here,
so nothing is ever downloaded.
Splits: no photograph serves two splits (of the stereo pair "motorcycle" only the left is used).
Sample: background("train", rng, 128) -> a pale, slightly blurred 128x128 crop of china.jpg.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from zipr1.common.errors import MissingExtra

SKLEARN, SKIMAGE = "sklearn/datasets/images", "skimage/data"  # folders in the wheels
PHOTOS: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (
        (SKLEARN, "china.jpg"),
        (SKIMAGE, "chelsea.png"),
        (SKIMAGE, "rocket.jpg"),
        (SKIMAGE, "motorcycle_left.png"),
        (SKIMAGE, "camera.png"),
        (SKIMAGE, "brick.png"),
        (SKIMAGE, "moon.png"),
    ),
    "val": ((SKIMAGE, "coffee.png"), (SKIMAGE, "grass.png")),
    "test": ((SKLEARN, "flower.jpg"), (SKIMAGE, "coins.png"), (SKIMAGE, "gravel.png")),
    "sealed": (
        (SKIMAGE, "astronaut.png"),
        (SKIMAGE, "hubble_deep_field.jpg"),
        (SKIMAGE, "ihc.png"),
        (SKIMAGE, "clock_motion.png"),
    ),
}
SHORT_SIDE = 256  # pixels of the shorter side of a photograph; sufficient for 128 px crops


def wheel(package: str) -> Path:
    """The folder of an installed package, found without the seconds that an import takes."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtra(
            f"{package} is not installed: the tasks read its data; pip install 'zipr1[tasks]'"
        )
    return Path(spec.origin).parent


@cache
def photo(folder: str, name: str) -> Image.Image:
    """One photograph, its shorter side SHORT_SIDE pixels, blurred so that drawings stay legible."""
    package, *rest = folder.split("/")
    with Image.open(wheel(package).joinpath(*rest, name)) as original:
        image = original.convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    image = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )
    return image.filter(ImageFilter.GaussianBlur(1))


def background(split: str, rng: np.random.Generator, size: int, faded: float = 0.55) -> Image.Image:
    """A square crop of a photograph of `split`, with its contrast lowered by blending with grey."""
    image = photo(*PHOTOS[split][int(rng.integers(len(PHOTOS[split])))])
    side = int(rng.integers(size, min(2 * size, SHORT_SIDE) + 1))  # of the crop
    left = int(rng.integers(image.width - side + 1))
    top = int(rng.integers(image.height - side + 1))
    crop = image.resize(
        (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    if rng.integers(2):
        crop = ImageOps.mirror(crop)
    grey = int(rng.integers(40, 216))
    return Image.blend(crop, Image.new("RGB", crop.size, (grey, grey, grey)), faded)
