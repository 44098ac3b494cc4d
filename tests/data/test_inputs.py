"""Reading pictures and clips: what can be read, and a clear word on what cannot."""

import av
import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from zipr1.data.example import Example
from zipr1.data.media import MediaError, read_clip, read_media, read_picture
from zipr1.data.processor import prepare
from zipr1.models.loading import load_vision


def write_clip(path, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()  # the header, also where no frame follows
        for i in range(frames):
            picture = np.full((64, 64, 3), 20 * i, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def test_a_picture_and_a_clip_are_read(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    assert read_media(tmp_path / "a.png", 8)["image"].size == (40, 30)
    write_clip(tmp_path / "a.mp4", 11)
    frames = read_media(tmp_path / "a.mp4", 4)["frames"]
    brightness = [np.asarray(frame).mean() for frame in frames]
    assert len(frames) == 4
    np.testing.assert_allclose(brightness, [0, 60, 140, 200], atol=8)  # frames 0, 3, 7 and 10


def test_the_time_between_frames_is_the_clips_own(tmp_path):
    """11 frames, 8 a second: 1.25 seconds from the first to the last."""
    write_clip(tmp_path / "a.mp4", 11)
    media = read_media(tmp_path / "a.mp4", 4)
    assert media["fps"] == pytest.approx(3 / 1.25)
    inputs = prepare(load_vision("zipr1/tiny")[1], [Example("a", "", "What?", "", **media)])
    assert list(inputs["second_per_grid_ts"]) == pytest.approx([2 / 2.4])
    assert len(read_clip(tmp_path / "a.mp4", 100)[0]) == 10  # pairs
    frames, fps = read_clip(tmp_path / "a.mp4", 100, fps=4)
    assert (len(frames), fps) == (
        6,
        pytest.approx(5 / 1.25),
    )  # no more than 4 a second, and both ends


def test_a_clip_is_decoded_once(tmp_path, monkeypatch):
    """Opened once to count its packets, once to decode it; again only where packets turn out not to be frames."""
    opened, real = [], av.open
    monkeypatch.setattr(
        av, "open", lambda *arguments, **settings: opened.append(1) or real(*arguments, **settings)
    )
    with real(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream(
            "libx264", rate=8, options={"g": "8", "bf": "0"}
        )  # every eighth frame stands alone
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for i in range(24):
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * i, dtype=np.uint8))
                )
            )
        container.mux(stream.encode())
    frames, _ = read_clip(tmp_path / "a.mkv", 4)
    assert len(opened) == 2
    np.testing.assert_allclose(
        [np.asarray(frame).mean() for frame in frames], [0, 80, 150, 230], atol=4
    )
    with (
        real(str(tmp_path / "a.mkv")) as whole,
        real(str(tmp_path / "headless.mkv"), "w") as container,
    ):
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in list(whole.demux(video=0))[
            1:-1
        ]:  # the first frame is lost, so the seven after it say nothing
            packet.stream = stream
            container.mux(packet)
    opened.clear()
    frames, fps = read_clip(tmp_path / "headless.mkv", 4)
    assert len(opened) == 3 and fps == pytest.approx(3 / (15 / 8))
    np.testing.assert_allclose(
        [np.asarray(frame).mean() for frame in frames], [80, 130, 180, 230], atol=4
    )  # 8, 13, 18, 23


def test_the_content_decides_not_the_name(tmp_path):
    write_clip(tmp_path / "a.mp4", 4)
    (tmp_path / "a.mp4").rename(tmp_path / "a.png")
    assert len(read_media(tmp_path / "a.png", 8)["frames"]) == 4


def test_pictures_of_every_kind(tmp_path):
    """What is transparent is white, as in Qwen's own reader; 16 bits of grey become 8; a camera's second view is left out."""
    page = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    page.paste((255, 0, 0, 255), (0, 0, 4, 8))
    page.save(tmp_path / "alpha.png")
    page.convert("P").save(
        tmp_path / "palette.png", transparency=page.convert("P").getpixel((7, 0))
    )
    for name in ("alpha.png", "palette.png"):
        picture = read_picture(tmp_path / name)
        assert [picture.getpixel(place) for place in ((0, 0), (7, 0))] == [
            (255, 0, 0),
            (255, 255, 255),
        ], name
    Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)).save(tmp_path / "grey.png")
    assert [pixel[0] for pixel in np.asarray(read_picture(tmp_path / "grey.png"))[0].tolist()] == [
        0,
        100,
        255,
    ]
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "camera.jpg", format="MPO", save_all=True, append_images=[blue])
    assert read_picture(tmp_path / "camera.jpg").getpixel((8, 8))[0] > 250


def test_a_clip_with_a_title_in_latin_1(tmp_path):
    write_clip(tmp_path / "a.mp4", 4)
    with (
        av.open(str(tmp_path / "a.mp4")) as whole,
        av.open(str(tmp_path / "titled.mkv"), "w") as container,
    ):
        container.metadata["title"] = "Caf\N{LATIN SMALL LETTER E WITH ACUTE}"
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    found = (tmp_path / "titled.mkv").read_bytes()
    title = "Caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()
    assert title in found
    (tmp_path / "titled.mkv").write_bytes(
        found.replace(title, title.decode().encode("latin-1") + b"!")
    )
    assert len(read_clip(tmp_path / "titled.mkv", 4)[0]) == 4


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        ImageFile, "LOAD_TRUNCATED_IMAGES", False
    )  # packages of the tests of lmms-eval switch it on
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_media(tmp_path / "none.png", 8)
    (tmp_path / "text.png").write_text("this is no picture")
    with pytest.raises(MediaError, match=r"text\.png"):
        read_media(tmp_path / "text.png", 8)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.jpg", quality=95)
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    with pytest.raises(MediaError, match=r"half\.jpg.*broken"):
        read_media(tmp_path / "half.jpg", 8)
    heavy = PngImagePlugin.PngInfo()
    heavy.add_text(
        "comment", "x" * 3_000_000, zip=True
    )  # more than Pillow unpacks: a ValueError of its own
    Image.new("RGB", (9, 9)).save(tmp_path / "heavy.png", pnginfo=heavy)
    with pytest.raises(MediaError, match=r"heavy\.png: broken picture"):
        read_media(tmp_path / "heavy.png", 8)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(MediaError, match=r"sound\.wav.*no video stream"):
        read_media(tmp_path / "sound.wav", 8)
    write_clip(tmp_path / "known.mkv", 4)
    found = (tmp_path / "known.mkv").read_bytes()
    assert b"V_MPEG4/ISO/ASP" in found
    (tmp_path / "unknown.mkv").write_bytes(found.replace(b"V_MPEG4/ISO/ASP", b"V_MPEG9/ISO/ASP"))
    with pytest.raises(
        MediaError, match=r"unknown\.mkv.*codec"
    ):  # to decode it would end the process
        read_media(tmp_path / "unknown.mkv", 8)
    write_clip(tmp_path / "empty.avi", 0)
    with pytest.raises(MediaError, match=r"empty\.avi"):
        read_media(tmp_path / "empty.avi", 8)
