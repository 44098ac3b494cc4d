"""Truncated images are errors, whatever Pillow's LOAD_TRUNCATED_IMAGES says.

Packages (lmms-eval, when it is imported) set this flag for the whole process; Pillow then fills what
is missing of an image with grey and reports nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from PIL import ImageFile

from zipr1.common.errors import RunError

_LOCK = Lock()
_STATE = {"blocks": 0, "before": False}


@contextmanager
def whole_images_only() -> Iterator[None]:
    """Inside the block Pillow raises for a truncated image; several threads may be inside at once.

    The flag is that of the process, so other threads of it are strict too in the meantime; after
    the last block it is as it was. Raises RunError where somebody switches it on meanwhile.
    """
    with _LOCK:
        if not _STATE["blocks"]:
            _STATE["before"] = ImageFile.LOAD_TRUNCATED_IMAGES
        _STATE["blocks"] += 1
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise RunError(
                "PIL.ImageFile.LOAD_TRUNCATED_IMAGES was switched on while images were read, which "
                "fills truncated ones with grey; import what does so (lmms_eval) before"
            )
    finally:
        with _LOCK:
            _STATE["blocks"] -= 1
            if not _STATE["blocks"] and _STATE["before"]:
                ImageFile.LOAD_TRUNCATED_IMAGES = True
