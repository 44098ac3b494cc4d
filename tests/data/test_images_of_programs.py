"""Images as programs write them: with colour profiles of many names, far too large, and in formats
that nothing here decodes."""

import struct
from io import BytesIO

import numpy as np
import pytest
from command_line import run
from PIL import Image, ImageCms

from zipr1.data.media import MediaError, read_image, read_media

LINEAR = b"para\0\0\0\0" + struct.pack(">HHi", 0, 0, 0x10000)
NAMES = (
    "GIMP built-in Linear sRGB",
    "sRGB-elle-V4-g10.icc",
    "Linear sRGB (scene)",
    "my linear profile",
)


def curve(count: int, gamma: float | None = None) -> bytes:
    """The tone curve of sRGB, or of a gamma, as a table: how programs of before ICC 4 write it."""
    x = np.linspace(0, 1, count)
    y = (
        np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
        if gamma is None
        else x**gamma
    )
    levels = np.round(65535 * y).astype(">u2").tobytes()
    return b"curv\0\0\0\0" + struct.pack(">I", count) + levels


def profile(name: str, tone: bytes, swapped: bool = False) -> bytes:
    """sRGB's profile under another name, with another tone curve, and red and blue swapped."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if swapped:
        red, blue = (data.index(tag, 128) for tag in (b"rXYZ", b"bXYZ"))
        changed = bytearray(data)
        changed[red : red + 4], changed[blue : blue + 4] = b"bXYZ", b"rXYZ"
        data = bytes(changed)
    text = name.encode("utf-16-be")
    text = (
        b"mluc\0\0\0\0"
        + struct.pack(">II", 1, 12)
        + b"enUS"
        + struct.pack(">II", len(text), 28)
        + text
    )
    for tag in (b"rTRC", b"gTRC", b"bTRC", b"desc"):
        value = text if tag == b"desc" else tone
        data += bytes(-len(data) % 4)
        place = data.index(tag, 128)
        entry = struct.pack(">4sII", tag, len(data), len(value))
        data = data[:place] + entry + data[place + 12 :] + value
    return struct.pack(">I", len(data)) + data[4:]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_linear_profile_whatever_its_name(tmp_path, name, mode):
    """A grey of 55 of 255 is 21.6 % of the light, which is level 128 in sRGB."""
    image = Image.new("RGB", (8, 8), (55, 55, 55))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png", icc_profile=profile(name, LINEAR))
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "avif"])
def test_a_linear_profile_in_other_formats(tmp_path, suffix):
    Image.new("RGB", (16, 16), (55, 55, 55)).save(
        tmp_path / f"a.{suffix}", icc_profile=profile(NAMES[0], LINEAR)
    )
    found = read_image(tmp_path / f"a.{suffix}").getpixel((8, 8))
    assert all(abs(level - 128) <= 2 for level in found)


def test_a_profile_called_srgb_whose_colours_are_others(tmp_path):
    data = profile("sRGB IEC61966-2.1", curve(1024), swapped=True)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png", icc_profile=data)
    red, _, blue = read_image(tmp_path / "a.png").getpixel((0, 0))
    assert red < 5 and blue > 250
    data = profile("sRGB with a gamma of 1.8", curve(256, 1.8))
    Image.new("RGB", (8, 8), (60, 60, 60)).save(tmp_path / "a.png", icc_profile=data)
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (77, 77, 77)


@pytest.mark.parametrize("tone", [None, curve(1024), curve(4096)])
@pytest.mark.parametrize("name", ["sRGB IEC61966-2.1", "c2", "Display"])
def test_srgb_of_other_programs_stays_as_it_is(tmp_path, tone, name):
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = profile(name, tone) if tone else made
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png", icc_profile=data)
    assert np.array_equal(read_image(tmp_path / "a.png"), noise)


def test_an_image_with_far_too_many_pixels(capsys, tmp_path):
    Image.new("1", (20000, 10000)).save(tmp_path / "pano.png")
    with pytest.raises(MediaError) as caught:
        read_image(tmp_path / "pano.png")
    assert str(caught.value).endswith(
        "pano.png: an image of 200000000 pixels, above the limit of 178956970; make it smaller"
    )
    status, _, err = run(capsys, "answer", str(tmp_path / "pano.png"), "What?")
    assert status == 2 and "an image of 200000000 pixels" in err


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\xff\x0a\xfa\x1f\x11\x91\x08\x06\x01\x00" + b"\x4b\x18" * 50, "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100), "a JPEG XL image"),
        (b"II\xbc\x01" + bytes(100), "a JPEG XR image"),
        (b"AT&TFORM\0\0\1\0DJVMDIRM" + bytes(99), "a DjVu document; export the page"),
        (b"gimp xcf v011\0" + bytes(100), "a project of GIMP; export the image"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(100), "a camera's raw file; develop it"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100), "a camera's raw file; develop it"),
    ],
)
def test_formats_that_nothing_here_decodes(capsys, tmp_path, content, word):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=f"a.png: {word}"):
        read_media(path, 4)
    status, out, err = run(capsys, "answer", str(path), "What?")
    assert (status, out) == (2, "") and word in err


def test_bytes_that_only_begin_alike(tmp_path):
    """A JPEG begins with one byte of JPEG XL's two."""
    stream = BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "JPEG")
    assert read_image(stream.getvalue(), "a.jxl").size == (8, 8)


def test_profiles_of_grey_images(tmp_path):
    for tone, expected in ((LINEAR, 128), (curve(1024), 55)):
        data = bytearray(profile("Grey with sRGB TRC", tone))
        place = data.index(b"rTRC", 128)
        data[16:20], data[place : place + 4] = b"GRAY", b"kTRC"
        Image.new("L", (8, 8), 55).save(tmp_path / "a.png", icc_profile=bytes(data))
        assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (expected,) * 3
