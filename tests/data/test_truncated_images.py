"""A truncated image is refused, also where another package has told Pillow to fill it with grey."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from command_line import run
from data_rows import write
from PIL import Image, ImageFile

from zipr1.common.errors import RunError
from zipr1.data.media import MediaError, read_image, read_media
from zipr1.data.rows import open_rows
from zipr1.data.whole_images import whole_images_only


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    """As `import lmms_eval` leaves it."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


@pytest.fixture
def files(tmp_path):
    """Every format, cut behind its header, in the middle and before its last bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image, cut = Image.fromarray(noise), []
    for suffix in ("png", "jpg", "gif", "webp", "tif", "bmp", "ppm", "jp2", "ico"):
        whole = tmp_path / f"whole.{suffix}"
        image.save(whole)
        read_image(whole)
        content = whole.read_bytes()
        for number, length in enumerate((len(content) // 3, len(content) * 2 // 3)):
            path = tmp_path / f"cut{number}.{suffix}"
            path.write_bytes(content[:length])
            cut.append(path)
    return cut


def test_truncated_images_are_refused(files):
    for path in files:
        with pytest.raises(MediaError, match=path.name):
            read_media(path, 4)
    assert ImageFile.LOAD_TRUNCATED_IMAGES  # what others have set is left as it was


def test_in_the_commands(files, capsys, tmp_path):
    status, _, error = run(capsys, "answer", str(files[0]), "What?")
    assert status == 2 and "cut0.png: broken image" in error
    rows = write(tmp_path / "rows.jsonl", [{"prompt": "a", "image": files[0].name, "answer": "b"}])
    with pytest.raises(MediaError, match=r"row 0: .*cut0.png: broken image"):
        open_rows(str(rows)).example(0)
    status, out, error = run(capsys, "data", "check", str(rows), "--workers", "0")
    assert status != 0 and "cut0.png: broken image" in out + error


def test_threads_that_read_at_once_do_not_disturb_each_other(files):
    """One leaves the strict block while others are inside."""

    def refused(path) -> bool:
        try:
            read_image(path)
        except MediaError:
            return True
        return False

    inside, left = Barrier(2), Barrier(2)

    def long_block():
        with whole_images_only():
            inside.wait()
            left.wait()
            return refused(files[0]) and not ImageFile.LOAD_TRUNCATED_IMAGES

    with ThreadPoolExecutor(4) as pool:
        long = pool.submit(long_block)
        inside.wait()
        assert all(pool.map(refused, files * 8))
        left.wait()
        assert long.result()
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_the_flag_switched_on_meanwhile_is_an_error():
    with (
        pytest.raises(RunError, match="LOAD_TRUNCATED_IMAGES was switched on"),
        whole_images_only(),
    ):
        ImageFile.LOAD_TRUNCATED_IMAGES = True
