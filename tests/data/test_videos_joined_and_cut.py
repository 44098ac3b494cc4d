"""Videos that are more or less than one: joined byte by byte, cut short, with several tracks, and
with transparency that FFmpeg's own decoder leaves out."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from command_line import run
from media_files import levels, write_video
from PIL import Image

from zipr1.data.media import MediaError, read_media, read_video

JOINED = {
    "a.ts": {}, "b.ts": {"options": {"bf": "0"}}, "a.m2ts": {}, "a.mkv": {},
    "a.mpg": {"codec": "mpeg1video", "rate": 25}, "a.vob": {"codec": "mpeg2video", "rate": 25},
    "a.webm": {"codec": "libvpx"},
}  # fmt: skip


def falling(number: int) -> np.ndarray:
    return np.full((48, 64, 3), 230 - 10 * number, dtype=np.uint8)


@pytest.mark.parametrize("name", JOINED)
def test_files_joined_byte_by_byte(tmp_path, name):
    """Frames of both parts would be in turn, or their times halved."""
    for part, settings in (("0", {}), ("1", {"draw": falling})):
        write_video(tmp_path / f"{part}{name}", 24, **JOINED[name], **settings)
    parts = [(tmp_path / f"{part}{name}").read_bytes() for part in "01"]
    for first, second in (parts, (parts[0], parts[0])):
        (tmp_path / name).write_bytes(first + second)
        with pytest.raises(
            MediaError, match=rf"{name}: its times begin anew after [12]\.\d seconds"
        ):
            read_media(tmp_path / name, 8)
    assert levels(read_video(tmp_path / f"0{name}", 4).frames)[::3] == [0, 23 - (name == "a.vob")]


def test_the_answer_about_joined_files(capsys, tmp_path):
    write_video(tmp_path / "a.ts", 24)
    (tmp_path / "b.ts").write_bytes(2 * (tmp_path / "a.ts").read_bytes())
    status, out, err = run(capsys, "answer", str(tmp_path / "b.ts"), "What?")
    assert (status, out) == (2, "") and "b.ts: its times begin anew" in err


def test_files_joined_in_their_times(tmp_path):
    """Joined as it should be, and with a pause between the parts."""
    for pause in (0, 60_000):
        times = [125 * i + pause * (i >= 12) for i in range(24)]
        write_video(tmp_path / "a.ts", 24, times=times)
        video = read_video(tmp_path / "a.ts", 24)
        assert video.times[-1] == pytest.approx(times[-1] / 1000, abs=0.2)


def test_a_clock_that_wraps_is_none_that_begins_anew(tmp_path):
    """The 33 bits of a transport stream's clock last for 26.5 hours."""
    options = {"mpegts_copyts": "1"}
    with av.open(str(tmp_path / "a.ts"), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(25):
            pixels = np.full((48, 64, 3), 10 * i, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = 2**33 + 9000 * (i - 12), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = read_video(tmp_path / "a.ts", 6)
    assert levels(video.frames) == [0, 5, 10, 14, 19, 24]
    assert video.times[-1] == pytest.approx(2.4)


def write_tracks(path, *tracks: tuple[int, Disposition | None], more: int = 0) -> None:
    """A file with a track of 8 frames for each (grey level, disposition), `more` in the first."""
    with av.open(str(path), "w") as container:
        for _, disposition in tracks:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            if disposition is not None:
                stream.disposition = disposition.value
        for stream, (level, _) in zip(container.streams.video, tracks, strict=True):
            pixels = np.full((48, 64, 3), level, dtype=np.uint8)
            for _ in range(8 + more * (stream.index == 0)):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode())


def test_the_track_that_players_show(tmp_path):
    none, default = Disposition(0), Disposition.default
    for name, tracks, shown in (
        ("second.mkv", ((10, none), (200, default)), 20),
        ("first.mkv", ((10, default), (200, none)), 1),
        ("both.mkv", ((10, default), (200, default)), 1),
        ("third.mkv", ((10, none), (100, none), (200, default)), 20),
        ("no.mkv", ((10, none), (200, none)), 1),
        ("a.mp4", ((10, None), (200, None)), 1),
        ("a.ts", ((10, None), (200, None)), 1),
    ):
        write_tracks(tmp_path / name, *tracks)
        assert set(levels(read_video(tmp_path / name, 4).frames)) == {shown}, name


def test_a_track_much_shorter_than_another_is_not_cut(tmp_path):
    path = tmp_path / "a.mkv"
    write_tracks(path, (10, Disposition(0)), (200, Disposition.default), more=40)
    video = read_video(path, 4)
    assert set(levels(video.frames)) == {20} and video.times[-1] == pytest.approx(0.875, abs=0.01)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(MediaError, match=r"a\.mkv"):
        read_video(path, 4)


def write_clear(path, codec: str, alpha: int, frames: int = 24) -> None:
    """Black frames with a red column at x = 2 i, of this alpha elsewhere."""
    with av.open(str(path), "w") as container:
        options = {"auto-alt-ref": "0", "g": "6", "crf": "4", "b": "2M"}
        stream = container.add_stream(codec, rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        for i in range(frames):
            pixels = np.zeros((48, 64, 4), dtype=np.uint8)
            pixels[..., 3] = alpha
            pixels[:, 2 * i : 2 * i + 8] = (255, 0, 0, 255)
            frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format="yuva420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(("codec", "suffix"), [("libvpx-vp9", "webm"), ("libvpx", "mkv")])
def test_transparent_videos_are_white(tmp_path, codec, suffix):
    path = tmp_path / f"a.{suffix}"
    for alpha, ground in ((0, 255), (128, 127)):
        write_clear(path, codec, alpha)
        video = read_video(path, 4)
        assert video.times == pytest.approx((0, 0.875, 1.875, 2.875), abs=0.13)
        for number, frame in zip((0, 7, 15, 23), video.frames, strict=True):
            row = np.asarray(frame)[24].astype(int)
            place = 2 * number + 4
            assert abs(row[(place + 20) % 64] - ground).max() < 12
            assert np.argmax(row[:, 0] - row[:, 1]) // 8 in (
                place // 8,
                place // 8 - 1,
                place // 8 + 1,
            )
            assert row[place, 0] > 200 and row[place, 1] < 80


def test_videos_without_transparency_keep_their_decoder(tmp_path):
    for codec in ("libvpx-vp9", "libvpx"):
        write_video(tmp_path / "a.webm", 8, codec=codec)
        assert levels(read_video(tmp_path / "a.webm", 4).frames) == [0, 2, 5, 7]


def write_animation(path, count: int = 25, **settings) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    frames = [Image.fromarray(one) for one in noise]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, **settings)


@pytest.mark.parametrize("name", ["a.gif", "a.flv", "a.wmv", "a.png", "a.webp"])
def test_the_end_is_missing(tmp_path, name):
    path, noise = tmp_path / name, np.random.default_rng(0).integers(0, 256, (80, 48, 64, 3))
    if name in ("a.flv", "a.wmv"):
        codec = {"a.flv": "flv", "a.wmv": "wmv2"}[name]
        write_video(path, 80, codec=codec, draw=noise.astype(np.uint8).__getitem__)
    else:
        write_animation(path)
    assert len(read_video(path, 80).frames) in (24, 80)
    content = path.read_bytes()
    for fraction in (0.1, 0.3, 0.45):
        path.write_bytes(content[: int(fraction * len(content))])
        with pytest.raises(MediaError, match=name):
            read_video(path, 8)


def test_an_animation_that_is_cut_anywhere(tmp_path):
    """Also with colours of each frame's own, a comment and no loop."""
    path = tmp_path / "a.gif"
    for settings in ({}, {"comment": "x" * 700}, {"loop": 0, "disposal": 2}):
        write_animation(path, 3, **settings)
        content = path.read_bytes()
        for end in range(len(content) // 2, len(content) - 2, 7):
            path.write_bytes(content[:end])
            if content[end - 1 : end + 1] == b"\0!":  # between two blocks: nobody can tell
                continue
            with pytest.raises(MediaError):
                read_media(path, 4)
        for whole in (content[:-1], content + b"\0\r\n", content + content):
            path.write_bytes(whole)
            assert len(read_video(path, 2).frames) == 2


def test_streams_whose_length_nobody_knows(tmp_path):
    """Live recordings: a header that promises nothing is believed."""
    write_video(tmp_path / "a.wmv", 24, codec="wmv2")
    content = bytearray((tmp_path / "a.wmv").read_bytes())
    place = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    content[place + 88] |= 1  # broadcast
    (tmp_path / "a.wmv").write_bytes(content)
    assert levels(read_video(tmp_path / "a.wmv", 4).frames)[::3] == [0, 23]
    (tmp_path / "a.wmv").write_bytes(content[: len(content) // 3])
    assert len(read_video(tmp_path / "a.wmv", 4).frames) > 1
    (tmp_path / "b.wmv").write_bytes(bytes(content) + bytes(4000))  # longer than it promises
    assert len(read_video(tmp_path / "b.wmv", 4).frames) == 4
    write_video(tmp_path / "a.flv", 24, codec="flv")
    content = (tmp_path / "a.flv").read_bytes()
    place = content.index(b"\0\x08duration\0") + 11
    (tmp_path / "a.flv").write_bytes(content[:place] + bytes(8) + content[place + 8 :])
    assert len(read_video(tmp_path / "a.flv", 4).frames) == 4
