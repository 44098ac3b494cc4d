"""Images as cameras, scanners and programs write them: what is shown, and what is refused."""

import gzip
import json
import struct
import zlib

import numpy as np
import pytest
from command_line import run
from media_files import orange_at, orange_corner
from PIL import Image, ImageCms, PngImagePlugin

from zipr1.data.media import MediaError, MissingMedia, NotAnImage, read_image, read_media

ORIENTATION = 0x0112


def stored(orientation: int) -> Image.Image:
    """The image that a viewer shows as orange_corner() if it obeys `orientation`."""
    turn = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
            6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}.get(orientation)  # fmt: skip
    image = Image.fromarray(orange_corner())
    return image.transpose(Image.Transpose[turn]) if turn else image


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_every_exif_orientation_is_upright(tmp_path, suffix):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        path = tmp_path / f"{orientation}.{suffix}"
        stored(orientation).save(path, exif=exif)
        image = read_image(path)
        assert (image.size, orange_at(image)) == ((64, 48), "top left"), orientation


def test_exif_data_that_are_broken_are_ignored_as_in_viewers(tmp_path):
    for exif in (b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff"):
        Image.fromarray(orange_corner()).save(tmp_path / "a.jpg", exif=exif)
        assert read_image(tmp_path / "a.jpg").size == (64, 48)


def test_the_answer_to_a_turned_photo_is_that_to_the_upright_one(capsys, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stored(6).save(tmp_path / "phone.png", exif=exif)
    stored(1).save(tmp_path / "upright.png")
    turned, upright = (
        json.loads(run(capsys, "answer", str(tmp_path / name), "What colour?", "--json")[1])
        for name in ("phone.png", "upright.png")
    )
    assert turned["answer"] == upright["answer"] and turned["tokens"] == upright["tokens"]
    assert turned["kept_tokens_per_layer"] == upright["kept_tokens_per_layer"]


def test_transparency_is_white(tmp_path):
    page = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    page.paste((255, 0, 0, 255), (0, 0, 4, 8))
    page.save(tmp_path / "alpha.png")
    page.save(tmp_path / "alpha.webp", lossless=True)
    page.save(tmp_path / "alpha.tif")
    palette = page.convert("P")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((7, 0)))
    palette.save(tmp_path / "palette.gif", transparency=palette.getpixel((7, 0)))
    for path in sorted(tmp_path.iterdir()):
        image = read_image(path)
        assert image.mode == "RGB", path.name
        assert [image.getpixel((x, 0)) for x in (0, 7)] == [(255, 0, 0), (255, 255, 255)], path.name


def test_sixteen_bits_of_grey(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(values).save(tmp_path / name)
    (tmp_path / "grey.pgm").write_bytes(b"P5 3 1 65535\n" + values.astype(">u2").tobytes())
    photometric, tif = struct.pack("<HHI", 262, 3, 1), (tmp_path / "grey.tif").read_bytes()
    assert photometric + b"\1" in tif  # black is zero
    negative = tif.replace(photometric + b"\1", photometric + b"\0")
    (tmp_path / "negative.tif").write_bytes(negative)
    for name, expected in (
        ("grey.png", [0, 100, 255]),
        ("grey.tif", [0, 100, 255]),
        ("grey.pgm", [0, 100, 255]),
        ("negative.tif", [255, 155, 0]),
    ):
        assert np.asarray(read_image(tmp_path / name))[0, :, 0].tolist() == expected, name
    Image.fromarray(values).save(tmp_path / "hole.png", transparency=257 * 100)
    assert np.asarray(read_image(tmp_path / "hole.png"))[0, :, 0].tolist() == [0, 255, 255]


def test_numbers_without_black_and_white_are_refused(tmp_path):
    """A viewer shows 32-bit and floating-point images by a range of its own choice."""
    Image.fromarray(np.array([[0, 1000, 2**20]], dtype=np.int32)).save(tmp_path / "integer.tif")
    Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "float.pfm").write_bytes(b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5))
    for name, word in (
        ("integer.tif", "integer pixels"),
        ("float.tif", "floating-point pixels"),
        ("float.pfm", "floating-point pixels"),
    ):
        with pytest.raises(MediaError, match=rf"{name}: {word} .*8 or 16 bits"):
            read_media(tmp_path / name, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"])
def test_every_mode_shows_the_same(tmp_path, mode):
    image = Image.fromarray(orange_corner()).convert("L" if mode in ("1", "I;16") else "RGB")
    if mode == "LAB":
        spaces = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        converted = ImageCms.profileToProfile(image, *spaces, outputMode="LAB")
    elif mode == "I;16":
        converted = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    else:
        converted = image.convert(mode)
    converted.save(tmp_path / "a.tif")
    expected = converted.convert("RGB") if mode in ("1", "P") else image.convert("RGB")
    if mode in ("L", "LA"):
        expected = Image.fromarray(orange_corner()).convert("L").convert("RGB")
    difference = np.abs(np.asarray(read_image(tmp_path / "a.tif"), int) - np.asarray(expected, int))
    assert difference.max() <= 6


def test_a_colour_profile_is_obeyed(tmp_path):
    """Green of a wide space, in a profile whose primaries are those of sRGB with red and blue
    swapped, is green still; red becomes blue."""
    profile = swapped_profile()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "a.png", icc_profile=profile)
    red, _, blue = read_image(tmp_path / "a.png").getpixel((0, 0))
    assert red < 5 and blue > 250
    Image.new("RGBA", (4, 4), (255, 0, 0, 255)).save(tmp_path / "b.png", icc_profile=profile)
    assert read_image(tmp_path / "b.png").getpixel((0, 0))[2] > 250
    # Viewers ignore a profile that is broken, or of another kind of image.
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "c.png", icc_profile=profile[:200])
    Image.new("L", (4, 4), 100).save(tmp_path / "d.png", icc_profile=profile)
    assert read_image(tmp_path / "c.png").getpixel((0, 0)) == (255, 0, 0)
    assert read_image(tmp_path / "d.png").getpixel((0, 0)) == (100, 100, 100)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "e.png", icc_profile=srgb)
    assert np.array_equal(read_image(tmp_path / "e.png"), noise)  # to the bit


def swapped_profile() -> bytes:
    """sRGB's own profile with the tags of its red and blue primaries swapped."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = (data.index(tag, 128) for tag in (b"rXYZ", b"bXYZ"))
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data).replace(b"s\0R\0G\0B", b"o\0w\0n\0s").replace(b"sRGB", b"owns")


def test_several_images_in_one_file(tmp_path):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    several = {"save_all": True, "append_images": [blue]}
    # The second view, or depth map, of a camera is left out.
    red.save(tmp_path / "camera.jpg", format="MPO", **several)
    assert read_image(tmp_path / "camera.jpg").getpixel((8, 8))[0] > 250
    red.copy().save(tmp_path / "pages.tif", save_all=True, append_images=[blue.copy()])
    with pytest.raises(MediaError, match=r"pages\.tif: 2 pages in one TIFF file; save the page"):
        read_media(tmp_path / "pages.tif", 8)
    red.copy().save(tmp_path / "preview.tif", tiffinfo={254: 1})
    with pytest.raises(MediaError, match=r"preview\.tif: a camera's raw file"):
        read_media(tmp_path / "preview.tif", 8)
    for suffix in ("gif", "webp", "png", "avif"):
        red.save(tmp_path / f"a.{suffix}", duration=500, **several)
        with pytest.raises(NotAnImage, match=r"2 frames in one file; .* as a video"):
            read_image(tmp_path / f"a.{suffix}")
        frames = read_media(tmp_path / f"a.{suffix}", 8)["frames"]
        assert [np.asarray(frame).argmax(-1)[8, 8] for frame in frames] == [0, 2], suffix


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(256))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"<!DOCTYPE html><html><body>403 Forbidden", "an HTML page, often the error page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey", "an XML document"),
        ("\ufeff<svg/>".encode(), "an SVG drawing"),
        ("<html>".encode("utf-16"), "an HTML page"),
        (b'{"error": "not found"}', "a JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"", "an empty file"),
        (bytes(9000), "zero bytes only"),
        (b"this is no image", r"a text file \('this is no image'\)"),
        (("\u00e9" * 5000).encode(), "a text file"),  # a character is cut at the end
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript file"),
        (b"#EXTM3U\n#EXTINF:5,\n/etc/passwd\n", "a playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "a playlist"),
        (HEIC, "a HEIC image, .*JPEG, or pip install pillow-heif"),
        (bytes(range(256)) * 8, "neither a readable image nor a readable video"),
    ],
)
def test_what_is_no_image_is_said(tmp_path, content, word):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(MediaError, match=rf"a\.jpg: {word}"):
        read_media(tmp_path / "a.jpg", 8)
    with pytest.raises(MediaError, match=word.split("neither")[0]):
        read_image(content, "a.jpg")


def test_what_is_missing_is_said(tmp_path):
    for path in (tmp_path / "none.png", "x" * 5000, "a\0b"):
        with pytest.raises(MissingMedia, match="no such file") as error:
            read_media(path, 8)
        assert len(str(error.value)) < 400


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_broken_images_are_named(tmp_path):
    """Among them those on which Pillow raises IndexError, struct.error and AssertionError."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    whole = (tmp_path / "a.gif").read_bytes()
    refused = 0
    for length in range(1, len(whole)):
        try:  # where the first frame is whole and the second has not begun, there is one
            image = read_image(whole[:length], "cut.gif")
            assert np.array_equal(image, frames[0].convert("RGB"))
        except MediaError as error:
            refused += "cut.gif: " in str(error)
    assert refused > len(whole) - 9
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(5 * 4)))
    for between, after in ((b"", b""), (b"", chunk(b"PLTE", bytes(6)))):
        data = b"\x89PNG\r\n\x1a\n" + head + between + pixels + after + chunk(b"IEND", b"")
        (tmp_path / "palette.png").write_bytes(data)
        with pytest.raises(MediaError, match=r"palette\.png: broken image"):
            read_image(tmp_path / "palette.png")
    frames[0].save(tmp_path / "whole.jpg", quality=95)
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    with pytest.raises(MediaError, match=r"half\.jpg: broken image"):
        read_media(tmp_path / "half.jpg", 8)
    # More than Pillow unpacks, for which it raises a ValueError.
    heavy = PngImagePlugin.PngInfo()
    heavy.add_text("comment", "x" * 3_000_000, zip=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "heavy.png", pnginfo=heavy)
    with pytest.raises(MediaError, match=r"heavy\.png: broken image"):
        read_media(tmp_path / "heavy.png", 8)


def test_a_decompression_bomb_is_refused(tmp_path):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    data = (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(MediaError, match=r"bomb\.png: an image of 3600000000 pixels, above"):
        read_media(tmp_path / "bomb.png", 8)


def test_an_elongated_image_is_refused_before_the_processor(capsys, tmp_path):
    Image.new("RGB", (5000, 9)).save(tmp_path / "line.png")
    status, _, err = run(capsys, "answer", str(tmp_path / "line.png"), "What?", "--json")
    assert status == 2 and "5000 x 9 pixels: the longer side" in err and "Traceback" not in err
