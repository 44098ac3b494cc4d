"""A row of a data set, its media not read yet; and what the kinds of data sets share in reading one."""

from dataclasses import dataclass, replace
from os.path import isfile
from pathlib import Path

from zipr1.data.example import Example
from zipr1.data.media import MediaError, MissingMedia, read_clip, read_picture


@dataclass(frozen=True)
class Medium:
    """A file, or its bytes and what to call them."""

    name: str
    data: bytes | None = None

    def source(self) -> Path | bytes:
        """Raises MissingMedia for a file that is not there."""
        if self.data is None and not isfile(
            self.name
        ):  # Path.is_file() raises for a name that is too long
            raise MissingMedia(
                f"{self.name}: no such file; is the media root right, and the archive unpacked?"
            )
        return Path(self.name) if self.data is None else self.data


@dataclass(frozen=True)
class Row:
    """`example` lacks its pictures and frames; they lie in `images` and `video`."""

    example: Example
    images: tuple[Medium, ...] = ()
    video: Medium | None = None

    @property
    def data_type(self) -> str:
        return "video" if self.video else "image" if self.images else "text"

    def read(self, max_frames: int) -> Example:
        """The whole example; of a clip at most `max_frames` frames. Raises MediaError, which names row, file and reason."""
        try:
            pictures = [read_picture(medium.source(), medium.name) for medium in self.images]
            media = {"image": pictures[0]} if len(pictures) == 1 else {"images": tuple(pictures)}
            if self.video:
                frames, fps = read_clip(self.video.source(), max_frames, name=self.video.name)
                media |= {"frames": frames, "fps": fps}
        except MediaError as error:
            raise type(error)(f"row {self.example.id}: {error}") from error
        return replace(self.example, **media)


def text(row: dict, name: str, row_id: str) -> str:
    """A column that must hold words, or a number. Raises ValueError."""
    value = row.get(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int | float)
        or not str(value).strip()
    ):
        raise ValueError(
            f"row {row_id}: column {name!r} is {value!r}: give a text that is not empty"
        )
    return str(value)


def medium(value, root: Path, name: str, row_id: str) -> Medium:
    """What a column of media holds: a path below `root`, bytes, or the dict of both that `datasets` stores."""
    path, data = (
        (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (value, None)
    )
    if isinstance(value, bytes):
        path, data = None, value
    if data is None and not (isinstance(path, str) and path):
        raise ValueError(
            f"row {row_id}: column {name!r} is {value!r}: give the path of a file below the media root, or its bytes"
        )
    return Medium(f"column {name!r}" if path is None else str(root / path), data)
