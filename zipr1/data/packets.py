"""The compressed frames of a video, listed without decoding them."""

import math
import re
from dataclasses import dataclass

import av

from zipr1.data.source import MediaError

# Least fraction of the promised duration that must be there. Only mov (mp4) promises that of the
# video itself; what other formats say includes longer sound, or is a guess.
COMPLETE = {"mov": 0.9, "avi": 0.5, "matroska": 0.5, "flv": 0.5}
CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
JITTER = 0.1  # seconds that the times of a whole file may go back


@dataclass(frozen=True)
class Packets:
    """The compressed frames in the order in which they are shown."""

    pts: list[int]  # when each is shown, in units of the stream's time base
    keys: list[tuple[int, int]]  # (pts, dts) of those that are decoded on their own, ascending
    time_base: float  # seconds
    seekable: bool  # whether every frame has a time of its own

    @property
    def times(self) -> list[float]:
        """In seconds."""
        return [pts * self.time_base for pts in self.pts]


def list_packets(container, stream, name: str) -> Packets:
    """Reads the file once. Raises MediaError, which names `name`, where its end is missing, and
    where its times begin anew."""
    pts, keys, seekable, end, decoded = [], [], True, 0, None
    time_base = float(stream.time_base or 0)
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:  # an edit list cuts it out
            continue
        seekable &= packet.pts is not None
        if packet.dts is not None:
            check_order(decoded, packet, time_base, name)
            decoded = packet.dts
        shown = packet.pts if packet.pts is not None else packet.dts or 0
        pts.append(shown)
        end = max(end, shown + (packet.duration or 0))
        if packet.is_keyframe and packet.pts is not None:
            keys.append((shown, shown if packet.dts is None else packet.dts))
    check_complete(container, stream, end * time_base, name)
    # AVI only says when frames are decoded; what FFmpeg makes of it is wrong where order differs.
    guessed = container.format.name == "avi" and stream.codec_context.has_b_frames
    live = container.format.name == "asf" and container.duration is None  # it has no index
    seekable &= bool(keys) and len(set(pts)) == len(pts) and not (guessed or live)
    return Packets(sorted(pts), sorted(keys), time_base, seekable)


def check_order(before: int | None, packet, time_base: float, name: str) -> None:
    """Raises MediaError where a frame is to be decoded long before the one in front of it: in files
    of one format that were joined byte by byte."""
    back = 0 if before is None else (before - packet.dts) * time_base
    if back > max(JITTER, (packet.duration or 0) * time_base):
        raise MediaError(
            f"{name}: its times begin anew after {before * time_base:.1f} seconds, as where files "
            "were joined; join them with ffmpeg -f concat instead, or give them one by one"
        )


def check_complete(container, stream, end: float, name: str) -> None:
    """Raises MediaError where a video of `end` seconds is much shorter than its header promises."""
    format = container.format.name.split(",")[0]
    if format in ("mov", "avi") and stream.duration:
        promised = float(stream.duration * stream.time_base)
    elif format in ("matroska", "flv") and container.duration:
        promised = min(container.duration / av.time_base, tagged_duration(stream))
    else:  # a GIF, for example, holds its last frame as long as it likes
        return
    begin = float((stream.start_time or 0) * stream.time_base)
    if format == "matroska":  # says when the last frame ends, also where the first is late
        promised -= min(begin, promised)
    if end - begin < promised * COMPLETE[format]:
        raise MediaError(
            f"{name}: cut short, ends after {end - begin:.1f} of {promised:.1f} seconds; download "
            "it again"
        )


def tagged_duration(stream) -> float:
    """What Matroska says of one of several tracks, in seconds; infinity where it says nothing."""
    found = CLOCK.fullmatch(stream.metadata.get("DURATION", ""))
    if not found:
        return math.inf
    hours, minutes, seconds = map(float, found.groups())
    return 3600 * hours + 60 * minutes + seconds
