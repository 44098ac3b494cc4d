"""A row of a data set, its media not read yet; and what the kinds of data sets share in reading."""

from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from decimal import Decimal

from zipr1.common.errors import InputError
from zipr1.data.display import FrameSize
from zipr1.data.example import Example
from zipr1.data.images import read_image
from zipr1.data.source import MediaError, MediaFile, short
from zipr1.data.videos import read_video

EXACT = 2**53  # from here on a float does not hold every whole number


@dataclass(frozen=True)
class Row:
    """`example` lacks its images and frames; they lie in `images` and `video`."""

    example: Example
    images: tuple[MediaFile, ...] = ()
    video: MediaFile | None = None

    @property
    def data_type(self) -> str:
        return "video" if self.video else "image" if self.images else "text"

    def read(self, max_frames: int, frame_size: FrameSize | None = None) -> Example:
        """The whole example; at most `max_frames` frames of a video, not larger than `frame_size`.
        Raises MediaError, which names row, file and reason."""
        try:
            images = [read_image(file) for file in self.images]
            media = {"image": images[0]} if len(images) == 1 else {"images": tuple(images)}
            if self.video:
                video = read_video(self.video, max_frames, frame_size=frame_size)
                media |= {"frames": video.frames, "fps": video.fps, "times": video.times}
        except MediaError as error:
            raise type(error)(f"row {self.example.id}: {error}") from error
        return replace(self.example, **media)


def text(row: dict, name: str, row_id: str) -> str:
    """A column that must hold text, or a number. Raises InputError."""
    value = row.get(name)
    where = f"row {row_id}: column {name!r} is"
    if isinstance(value, date | time | timedelta):
        kind = type(value).__name__
        raise InputError(f"{where} the {kind} {value}: write it as a text, in the form you want")
    if isinstance(value, float) and not abs(value) < EXACT:  # nan is refused, too
        raise InputError(
            f"{where} {value}, a number that is not finite or whose last digits a float has lost: "
            "write it as a text"
        )
    kinds = {bool: "a truth value", list: "a list", dict: "an object", bytes: "bytes"}
    kind = kinds.get(type(value))
    if kind or not isinstance(value, str | int | float | Decimal) or not str(value).strip():
        kind = f", {kind}: give one text" if kind else ": give a text that is not empty"
        raise InputError(f"{where} {short(repr(value))}{kind}")
    if isinstance(value, Decimal):  # 0.5 of 0.5000000000
        digits = f"{value:f}"
        value = digits.rstrip("0").rstrip(".") if "." in digits else digits
        return "0" if value == "-0" else value
    return str(whole(value))


def whole(value):
    """3 of 3.0, because Arrow makes the 3 of a column with other numbers, or none, a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def name_of(value, number: int) -> str:
    """What a row is called: its id, or without one its number. Bytes (UUIDs) are written as hex."""
    if value is None or value == "" or value != value:  # nan
        return str(number)
    return value.hex() if isinstance(value, bytes) else str(whole(value))
