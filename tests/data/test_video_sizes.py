"""Videos whose frames change their size, and videos whose first frame is late."""

from fractions import Fraction

import av
import numpy as np
import pytest
from command_line import run
from media_files import write_video

from zipr1.data.media import MediaError, read_video

CODECS = {"a.webm": "libvpx", "a.mkv": "mjpeg", "a.avi": "mjpeg"}


def write_two_sizes(path, codec: str, each: int = 4) -> None:
    """`each` frames of 64 x 48 pixels, then as many of 96 x 80, in one stream."""
    with av.open(str(path), "w") as container:
        pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        container.start_encoding()
        for part, (width, height) in enumerate(((64, 48), (96, 80))):
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, pixels
            encoder.time_base, encoder.framerate = Fraction(1, 8), Fraction(8)
            pictures = [np.full((height, width, 3), 90, np.uint8)] * each
            for i, picture in enumerate([*pictures, None]):
                frame = None if picture is None else av.VideoFrame.from_ndarray(picture, "rgb24")
                if frame is not None:
                    frame.pts, frame.time_base = part * each + i, Fraction(1, 8)
                for packet in encoder.encode(frame):
                    packet.stream, packet.time_base = stream, Fraction(1, 8)
                    container.mux(packet)


@pytest.mark.parametrize("name", CODECS)
def test_frames_of_two_sizes_are_refused(capsys, tmp_path, name):
    path = tmp_path / name
    write_two_sizes(path, CODECS[name])
    message = "frames of 64 x 48 and 96 x 80 pixels; write it again at one size"
    with pytest.raises(MediaError, match=f"{name}: {message}"):
        read_video(path, 8)
    assert len(read_video(path, 1).frames) == 1  # of one size
    status, _, err = run(capsys, "answer", str(path), "What is it?")
    assert status == 2 and f"{path}: frames of " in err and "Traceback" not in err


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
@pytest.mark.parametrize("begin", [0, 100_000])
def test_a_video_whose_times_begin_late(tmp_path, suffix, begin):
    path, times = tmp_path / f"a.{suffix}", [begin + 125 * i for i in range(24)]
    codec = {"mkv": "libx264", "webm": "libvpx"}[suffix]
    noise = np.random.default_rng(0).integers(0, 256, (24, 48, 64, 3), dtype=np.uint8)
    write_video(path, codec=codec, times=times, draw=noise.__getitem__)
    assert read_video(path, 4).times == pytest.approx((0, 1, 23 / 12, 23 / 8), abs=0.011)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 5])
    with pytest.raises(MediaError, match=r"cut short, ends after .* of 3\.0 seconds"):
        read_video(path, 4)
