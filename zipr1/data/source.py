"""Where an image or a video comes from, and the errors that name what cannot be read."""

from dataclasses import dataclass
from io import BytesIO
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import BinaryIO

from zipr1.common.errors import InputError
from zipr1.data.content import unsupported_content

HEAD = 2048  # bytes from which the kind of a file is told


class MediaError(InputError):
    """An image or a video that cannot be read; the message names the file and the reason."""


class MissingMedia(MediaError, FileNotFoundError):
    """An image or a video that does not exist."""


class NotAnImage(MediaError):
    """A file that is no image, or an animation where a still image is expected."""


@dataclass(frozen=True)
class MediaFile:
    """A file on disk, or its content in memory."""

    name: str  # the path; of bytes, what errors call them
    data: bytes | None = None

    def open(self) -> BinaryIO:
        """The content as a binary file. Raises MediaError for a file that is missing, or that is
        known by its first bytes to be neither an image nor a video."""
        if self.data is not None:
            stream: BinaryIO = BytesIO(self.data)
        elif isfile(self.name):  # Path.is_file() raises for a name that is too long
            try:
                stream = open(self.name, "rb")  # noqa: SIM115
            except OSError as error:
                raise MediaError(f"{short(self.name)}: {error.strerror}") from error
        elif isdir(self.name):
            raise MediaError(
                f"{short(self.name)}: a folder; give the file in it. Frames of a video: give them "
                "one by one as images, in their order, or write one video file of them"
            )
        elif exists(self.name):  # a pipe, a device
            raise MediaError(f"{short(self.name)}: no regular file; give the path of a file")
        else:
            raise MissingMedia(
                f"{short(self.name)}: no such file; check the path, the media root, and that the "
                "archive is unpacked"
            )
        kind = unsupported_content(stream.read(HEAD))
        if kind:
            stream.close()
            raise MediaError(f"{short(self.name)}: {kind}")
        stream.seek(0)
        return stream


def media_file(source: "str | Path | bytes | MediaFile", name: str | Path = "") -> MediaFile:
    """`source` as a MediaFile: a path, or bytes that errors call `name`."""
    if isinstance(source, MediaFile):
        return source
    if isinstance(source, bytes):
        return MediaFile(str(name) or f"{len(source)} bytes", source)
    return MediaFile(str(source))


def short(text: object, limit: int = 200) -> str:
    """`text` for an error message: the middle of a long one is left out."""
    text = str(text)
    half = (limit - 5) // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"
