"""Videos as phones, cameras and programs write them: frames, times, and what is refused."""

import itertools
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from conftest import family_processor
from media_files import grey, levels, orange_at, orange_corner, set_display_matrix, write_video
from PIL import Image

from zipr1.data.example import Example
from zipr1.data.media import MediaError, read_media, read_video
from zipr1.data.processor import frame_size, prepare
from zipr1.data.sampling import sample
from zipr1.models.families import VISION_FAMILIES
from zipr1.models.loading import load_vision


def test_an_image_and_a_video_are_read(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    assert read_media(tmp_path / "a.png", 8)["image"].size == (40, 30)
    write_video(tmp_path / "a.mp4", 11)
    frames = read_media(tmp_path / "a.mp4", 4)["frames"]
    assert levels(frames) == [0, 3, 7, 10]


def test_the_time_between_frames_is_that_of_the_video(tmp_path):
    """11 frames, 8 a second: 1.25 seconds from the first to the last."""
    write_video(tmp_path / "a.mp4", 11)
    media = read_media(tmp_path / "a.mp4", 4)
    assert media["fps"] == pytest.approx(3 / 1.25)
    inputs = prepare(load_vision("zipr1/tiny")[1], [Example("a", "", "What?", "", **media)])
    assert torch.as_tensor(inputs["second_per_grid_ts"]).tolist() == pytest.approx([2 * 1.25 / 3])
    video = read_video(tmp_path / "a.mp4", 64, fps=4)
    # No more than 4 a second, and both ends.
    assert (len(video.frames), video.fps) == (6, pytest.approx(5 / 1.25))


def test_the_content_decides_not_the_name(tmp_path):
    write_video(tmp_path / "a.mp4", 4)
    (tmp_path / "a.mp4").rename(tmp_path / "a.png")
    assert len(read_media(tmp_path / "a.png", 8)["frames"]) == 4


FORMATS = {
    "a.mp4": {}, "a.mkv": {}, "a.ts": {}, "a.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "a.webm": {"codec": "libvpx"}, "b.avi": {}, "a.avi": {"codec": "mpeg4"},
    "a.flv": {"codec": "flv"}, "b.mkv": {"codec": "ffv1", "pixels": "bgr0"},
    "a.wmv": {"codec": "wmv2"}, "c.avi": {"codec": "mjpeg", "pixels": "yuvj420p"}, "a.h264": {},
    "b.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "c.mp4": {"options": {"g": "3", "bf": "2", "flags": "-cgop"}}, "d.mp4": {"options": {"g": "1"}},
    "e.mp4": {"options": {"movflags": "frag_keyframe+empty_moov", "g": "6"}},
    "a.gif": {"codec": "gif", "pixels": "rgb8"}, "a.apng": {"codec": "apng", "pixels": "rgb24"},
    "a.y4m": {"codec": "rawvideo"}, "f.mp4": {"pixels": "yuv420p10le"}, "a.3gp": {},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_frames_of_every_format(tmp_path, name):
    """Frames 0, 8, 15 and 23 of 24, whichever way they are found."""
    write_video(tmp_path / name, **FORMATS[name])
    video = read_video(tmp_path / name, 4)
    assert levels(video.frames) == [0, 8, 15, 23]
    if name == "a.h264":  # does not say when its frames are shown
        assert (video.fps, video.times) == (2.0, ())
    else:
        assert video.fps == pytest.approx(3 / (23 / 8), rel=0.01)
        assert video.times == pytest.approx((0, 1, 23 / 12, 23 / 8), abs=0.011)


def test_sought_frames_are_those_of_a_whole_pass(tmp_path):
    """Noise, key frames every 7 frames, B-frames: to the bit, for any number of frames."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    options = {"g": "7", "bf": "3", "sc_threshold": "0"}
    write_video(tmp_path / "a.mp4", 60, draw=noise.__getitem__, options=options)
    with av.open(str(tmp_path / "a.mp4")) as container:
        whole = [frame.to_image() for frame in container.decode(video=0)]
    for count in (1, 2, 4, 6, 10, 16, 60):
        chosen = np.linspace(0, 59, count).round().astype(int)
        frames = read_video(tmp_path / "a.mp4", count).frames
        assert [f.tobytes() for f in frames] == [whole[i].tobytes() for i in chosen], count


def count_decoded(monkeypatch) -> list:
    """A list that grows by one for each decoded frame."""
    decoded = []
    real = av.open

    def counted(*arguments, **settings):
        container = real(*arguments, **settings)
        return Counting(container)

    class Counting:
        def __init__(self, container):
            self.container = container

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.container.close()

        def __getattr__(self, name):
            return getattr(self.container, name)

        def decode(self, *arguments):
            for frame in self.container.decode(*arguments):
                decoded.append(frame.pts)
                yield frame

    monkeypatch.setattr(av, "open", counted)
    return decoded


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    """From the key frame before each sampled frame, not the whole video."""
    write_video(tmp_path / "a.mp4", 600, options={"g": "10", "sc_threshold": "0"})
    decoded = count_decoded(monkeypatch)
    assert levels(read_video(tmp_path / "a.mp4", 4).frames) == levels(map(grey, (0, 200, 399, 599)))
    assert len(decoded) <= 4 * 10


def test_a_video_whose_first_frames_are_lost(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mkv", options={"g": "8", "bf": "0"})
    with (
        av.open(str(tmp_path / "a.mkv")) as whole,
        av.open(str(tmp_path / "headless.mkv"), "w") as container,
    ):
        stream = container.add_stream_from_template(whole.streams.video[0])
        # Without the first frame the seven after it cannot be decoded.
        for packet in list(whole.demux(video=0))[1:-1]:
            packet.stream = stream
            container.mux(packet)
    video = read_video(tmp_path / "headless.mkv", 4)
    assert levels(video.frames) == [8, 13, 18, 23] and video.fps == pytest.approx(3 / (15 / 8))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_frame_rate(tmp_path, suffix):
    """A screen recording: nothing changes between 0.75 and 10 seconds."""
    write_video(tmp_path / f"a.{suffix}", 4, times=[0, 375, 750, 10000])
    video = read_video(tmp_path / f"a.{suffix}", 4)
    assert levels(video.frames) == [0, 2, 2, 3]  # what is on screen at 0, 3.33, 6.67 and 10 s
    assert video.times == pytest.approx((0, 10 / 3, 20 / 3, 10), abs=0.002)
    assert video.fps == pytest.approx(0.3, rel=1e-3)


def test_each_time_is_one_at_which_the_frame_is_on_screen():
    rng = np.random.default_rng(0)
    for _ in range(300):
        times = np.cumsum(rng.choice([0.02, 0.04, 0.5, 3.0], rng.integers(1, 80))).tolist()
        indices, shown = sample(times, int(rng.integers(1, 20)), None)
        assert indices == sorted(indices) and len(indices) == len(shown)
        for index, time in zip(indices, shown, strict=True):
            end = times[index + 1] if index + 1 < len(times) else times[-1]
            assert times[index] - 1e-6 <= time + times[0] <= end + 1e-6
        gaps = np.diff(shown)
        if len(gaps) > 1:  # evenly spaced, as far as the frames allow
            even = (times[-1] - times[0]) / len(gaps)
            assert gaps.max() - gaps.min() <= even + 1e-6 or len(set(np.diff(times))) == 1


@pytest.mark.parametrize("family", VISION_FAMILIES[:3])
def test_every_family_is_told_the_true_times(tmp_path, family):
    """5 frames, one a second; of 0, 1.33, 2.67 and 4 seconds, frames 0, 1, 3 and 4 are nearest, of
    which the third begins at 3 seconds."""
    write_video(tmp_path / "a.mp4", 5, rate=1)
    media = read_media(tmp_path / "a.mp4", 4)
    assert levels(media["frames"]) == [0, 1, 3, 4]
    processor = family_processor(family)
    inputs = prepare(processor, [Example("a", "", "What?", "", **media)])
    if family == "qwen2_5_vl":
        seconds = torch.as_tensor(inputs["second_per_grid_ts"]).tolist()
        assert seconds == pytest.approx([2 * 4 / 3])
    if family == "qwen3_vl":
        text = processor.tokenizer.decode(inputs["input_ids"][0])
        assert "<0.7 seconds>" in text and "<3.5 seconds>" in text


@pytest.mark.parametrize("family", VISION_FAMILIES[:3])
def test_a_video_of_one_frame(tmp_path, family):
    write_video(tmp_path / "a.mp4", 1)
    media = read_media(tmp_path / "a.mp4", 4)
    inputs = prepare(family_processor(family), [Example("a", "", "What?", "", **media)])
    assert len(media["frames"]) == 1 and inputs["video_grid_thw"][0, 0] == 1


MATRICES = {
    (1, 0, 0, 1): "top left", (0, 1, -1, 0): "top right", (-1, 0, 0, -1): "bottom right",
    (0, -1, 1, 0): "bottom left", (-1, 0, 0, 1): "top right", (1, 0, 0, -1): "bottom left",
    (0, 1, 1, 0): "top left", (0, -1, -1, 0): "bottom right",
}  # fmt: skip


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_rotation_matrix_of_a_phone_is_obeyed(tmp_path, matrix):
    """90 degrees clockwise, in the header of every video that a phone took upright."""
    write_video(tmp_path / "a.mp4", 4, draw=orange_corner)
    set_display_matrix(tmp_path / "a.mp4", matrix)
    for frame in read_media(tmp_path / "a.mp4", 4)["frames"]:
        assert frame.size == ((48, 64) if matrix[0] == 0 else (64, 48))
        assert orange_at(frame) == MATRICES[matrix]


def test_the_rotation_of_ffmpeg_is_ours(tmp_path):
    """rotation=-90: clockwise by 90 degrees."""
    write_video(tmp_path / "a.mp4", 4, draw=orange_corner)
    set_display_matrix(tmp_path / "a.mp4", (0, 1, -1, 0))
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
        turned = frame.to_image().rotate(frame.rotation, expand=True)
    assert np.array_equal(read_video(tmp_path / "a.mp4", 1).frames[0], turned)


def test_an_odd_rotation_is_refused(tmp_path):
    write_video(tmp_path / "a.mp4", 4)
    set_display_matrix(tmp_path / "a.mp4", (1, 1, -1, 1))
    with pytest.raises(MediaError, match=r"a\.mp4: turned by no multiple of 90 degrees"):
        read_video(tmp_path / "a.mp4", 4)


def test_pixels_that_are_not_square(tmp_path):
    ratio = {"sample_aspect_ratio": Fraction(4, 3)}
    write_video(tmp_path / "a.mp4", 4, draw=orange_corner, stream=ratio)
    frame = read_video(tmp_path / "a.mp4", 4).frames[0]
    assert frame.size == (85, 48) and orange_at(frame) == "top left"
    set_display_matrix(tmp_path / "a.mp4", (0, 1, -1, 0))
    assert read_video(tmp_path / "a.mp4", 4).frames[0].size == (48, 85)


@pytest.mark.parametrize(("matrix", "full"), itertools.product([None, 1, 5, 9], [False, True]))
def test_colours_follow_the_tags(tmp_path, matrix, full):
    """The colour matrix (1: BT.709, 5: BT.601, 9: BT.2020) and the range of the brightness."""
    colour = np.array([200, 40, 90])
    red, blue = {1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}.get(matrix, (0.299, 0.114))
    luma = np.dot(colour, [red, 1 - red - blue, blue])
    chroma = [(colour[2] - luma) / (2 - 2 * blue), (colour[0] - luma) / (2 - 2 * red)]
    if full:
        planes = [luma, 128 + chroma[0], 128 + chroma[1]]
    else:
        planes = [16 + luma * 219 / 255, *(128 + c * 224 / 255 for c in chroma)]
    tags = {"colorspace": matrix} if matrix else {}
    tags |= {"color_range": 2} if full else {}
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv444p"
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        array = np.empty((3, 64, 64), np.uint8)
        array[:] = np.round(planes)[:, None, None]
        frame = av.VideoFrame.from_ndarray(array, "yuv444p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    pixel = np.asarray(read_video(tmp_path / "a.mkv", 1).frames[0])[32, 32]
    assert np.abs(pixel.astype(int) - colour).max() <= 3


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range_looks_as_in_a_player(tmp_path, transfer):
    """PQ (16) and HLG (18): greys stay grey, in their order; diffuse white is bright, not grey."""
    levels_of_signal = np.linspace(0, 1, 8)

    def draw(number: int) -> np.ndarray:
        signal = np.repeat(np.round(levels_of_signal * 255), 8).astype(np.uint8)
        return np.broadcast_to(signal[None, :, None], (48, 64, 3)).copy()

    tags = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9}
    write_video(tmp_path / "a.mkv", 2, codec="ffv1", pixels="yuv420p10le", draw=draw, stream=tags)
    pixels = np.asarray(read_video(tmp_path / "a.mkv", 2).frames[0]).astype(int)[24, 4::8]
    assert (pixels.max(-1) - pixels.min(-1)).max() <= 6
    shades = pixels[:, 1]
    assert (np.diff(shades) >= 0).all() and shades[0] <= 3 and shades[-1] >= 250
    white = {16: 0.58, 18: 0.75}[transfer]  # the signal of diffuse white, ITU-R BT.2408
    shown = np.interp(white, levels_of_signal, shades)
    assert 180 <= shown <= 250


def test_frames_are_shrunk_to_what_the_model_sees(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, 270, 480, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mkv", 8, codec="ffv1", pixels="bgr0", draw=noise.__getitem__)
    for family in VISION_FAMILIES[:3]:
        processor = family_processor(family)
        whole = read_media(tmp_path / "a.mkv", 8)
        small = read_media(tmp_path / "a.mkv", 8, frame_size(processor))
        assert whole["frames"][0].size == (480, 270)
        width, height = small["frames"][0].size
        assert width * height < 480 * 270 / 4
        one, two = (
            prepare(processor, [Example("a", "", "?", "", **media)]) for media in (whole, small)
        )
        assert torch.equal(one["video_grid_thw"], two["video_grid_thw"])
        assert torch.equal(one["pixel_values_videos"], two["pixel_values_videos"]), family


def test_an_edit_list_is_obeyed(tmp_path):
    """A video that a phone has trimmed: its first frames are there, but not shown."""
    write_video(tmp_path / "a.mp4", options={"g": "8", "bf": "0"})
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    place = data.index(b"elst") + 4 + 8  # version 0: duration, start, rate
    start = int.from_bytes(data[place + 4 : place + 8], "big")
    scale = int.from_bytes(data[data.index(b"mdhd") + 16 :][:4], "big")
    duration = int.from_bytes(data[place : place + 4], "big") * 2 // 3
    data[place : place + 8] = duration.to_bytes(4, "big") + (start + scale).to_bytes(4, "big")
    (tmp_path / "a.mp4").write_bytes(data)
    with av.open(str(tmp_path / "a.mp4")) as container:
        shown = levels(frame.to_image() for frame in container.decode(video=0))
    assert shown[0] == 8
    assert levels(read_video(tmp_path / "a.mp4", 4).frames) == [
        shown[i] for i in np.linspace(0, len(shown) - 1, 4).round().astype(int)
    ]


def test_a_still_image_as_a_video_is_one_frame(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png", "webp", "bmp", "tif"):
        Image.new("RGB", (64, 48)).save(tmp_path / f"a.{suffix}", exif=exif)
        frames = read_video(tmp_path / f"a.{suffix}", 8).frames
        assert [frame.size for frame in frames] == [(64, 48) if suffix == "bmp" else (48, 64)]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_animations_have_their_own_times(tmp_path, suffix):
    images = [Image.fromarray(grey(i)) for i in range(24)]
    settings = {"lossless": True} if suffix == "webp" else {}
    durations = [500] * 12 + [100] * 12  # ms
    images[0].save(
        tmp_path / f"a.{suffix}", save_all=True, append_images=images[1:], duration=durations,
        **settings,
    )  # fmt: skip
    video = read_video(tmp_path / f"a.{suffix}", 4)
    # 24 frames in 7.1 seconds: on screen at 0, 2.37, 4.73 and 7.1 seconds.
    assert levels(video.frames) == [0, 4, 9, 23]
    assert video.times == pytest.approx((0, 7.1 / 3, 14.2 / 3, 7.1), abs=0.02)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_transparent_frames_are_white(tmp_path, suffix):
    frames = [Image.new("RGBA", (64, 48), (0, 0, 0, 0)) for _ in range(2)]
    for i, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (0, 0, 20 + i, 48))
    settings = {"lossless": True} if suffix == "webp" else {"disposal": 2}
    frames[0].save(
        tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=200, **settings
    )
    if suffix == "webp":  # Pillow does not write the flag of transparency
        content = bytearray((tmp_path / "a.webp").read_bytes())
        content[20] |= 0x10
        (tmp_path / "a.webp").write_bytes(content)
    for frame in read_video(tmp_path / f"a.{suffix}", 2).frames:
        assert (
            np.abs(np.asarray(frame)[24, [5, 60]].astype(int) - [(255, 0, 0), (255,) * 3]).max() < 9
        )


def test_a_title_in_latin_1(tmp_path):
    write_video(tmp_path / "a.mp4", 4)
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
    content = (tmp_path / "titled.mkv").read_bytes()
    title = "Caf\N{LATIN SMALL LETTER E WITH ACUTE}".encode()
    assert title in content
    (tmp_path / "titled.mkv").write_bytes(
        content.replace(title, title.decode().encode("latin-1") + b"!")
    )
    assert len(read_video(tmp_path / "titled.mkv", 4).frames) == 4


def test_no_other_file_is_opened(tmp_path, monkeypatch):
    """Playlists with a few binary bytes, so that they pass for a video."""
    write_video(tmp_path / "a.ts", 4)
    monkeypatch.chdir(tmp_path)
    hls = "#EXTM3U\n#BYTES\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nPATH\n#EXT-X-ENDLIST\n"
    lists = (hls, "ffconcat version 1.0\n#BYTES\nfile PATH\n")
    for text, path in itertools.product(
        lists, ("a.ts", f"{tmp_path}/a.ts", f"file:{tmp_path}/a.ts")
    ):
        content = text.replace("PATH", path).encode().replace(b"BYTES", b"\xff\xfe")
        (tmp_path / "list.mp4").write_bytes(content)
        with pytest.raises(MediaError, match=r"list\.mp4: neither a readable image nor a readable"):
            read_video(tmp_path / "list.mp4", 4)


def test_what_cannot_be_read_is_named(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(MediaError, match=r"sound\.wav.*no video stream"):
        read_media(tmp_path / "sound.wav", 8)
    write_video(tmp_path / "known.mkv", 4, codec="mpeg4")
    content = (tmp_path / "known.mkv").read_bytes()
    assert b"V_MPEG4/ISO/ASP" in content
    (tmp_path / "unknown.mkv").write_bytes(content.replace(b"V_MPEG4/ISO/ASP", b"V_MPEG9/ISO/ASP"))
    # To decode it would end the process.
    with pytest.raises(MediaError, match=r"unknown\.mkv.*codec"):
        read_media(tmp_path / "unknown.mkv", 8)
    write_video(tmp_path / "empty.avi", 0, codec="mpeg4")
    with pytest.raises(MediaError, match=r"empty\.avi"):
        read_media(tmp_path / "empty.avi", 8)


def test_truncated_videos_are_named(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 48, 64, 3), dtype=np.uint8)
    for name, settings in (
        ("a.mp4", {}),  # its index is at the end
        ("b.mp4", {"options": {"movflags": "+faststart"}}),
        ("c.mkv", {}),
    ):
        write_video(tmp_path / name, 64, draw=noise.__getitem__, **settings)
        content = (tmp_path / name).read_bytes()
        for fraction in (0.05, 0.2, 0.4):
            (tmp_path / name).write_bytes(content[: int(fraction * len(content))])
            with pytest.raises(MediaError, match=name):
                read_media(tmp_path / name, 8)
