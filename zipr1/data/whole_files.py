"""Videos whose bytes tell that their end is missing, where FFmpeg does not: GIF and WMV."""

from typing import BinaryIO

from zipr1.data.source import MediaError, MediaFile, short

FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # the object's id in ASF
GRAPHIC_CONTROL = b"\xf9"  # in GIF, what says how the next frame is shown
BROADCAST = 1  # a flag: the header does not know how long the file will be
HEADER = 2**16  # bytes in which that object is
COMPLETE = 0.5  # least fraction of the promised bytes


def check_end(file: MediaFile, format: str) -> None:
    """Raises MediaError for a file of which much is missing; `format` as FFmpeg names it."""
    check = {"gif": gif_is_cut, "asf": wmv_is_cut}.get(format)
    if check is None:
        return
    with file.open() as stream:
        if check(stream):
            raise MediaError(
                f"{short(file.name)}: cut short, its end is missing; download it again"
            )


def gif_is_cut(stream: BinaryIO) -> bool:
    """Whether it ends inside a block, or before the frame that a block announces. What stands
    behind its last block is ignored, and an end without the mark of an end is one, as in viewers.
    """
    skip_colours(stream, stream.read(13)[10:11])
    announced = False
    while kind := stream.read(1):
        if kind == b"!":  # an extension
            announced = stream.read(1) == GRAPHIC_CONTROL
        elif kind == b",":  # a frame
            announced = False
            skip_colours(stream, stream.read(9)[8:9])
            stream.read(1)
        else:
            return False
        while size := stream.read(1):
            if size == b"\0":
                break
            stream.seek(size[0], 1)
        else:
            return True
    return announced


def skip_colours(stream: BinaryIO, flags: bytes) -> None:
    """Passes over the table of colours that `flags` announce."""
    if flags and flags[0] & 0x80:
        stream.seek(3 * 2 ** ((flags[0] & 7) + 1), 1)


def wmv_is_cut(stream: BinaryIO) -> bool:
    """Whether it is much shorter than its header says."""
    head = stream.read(HEADER)
    place = head.find(FILE_PROPERTIES)
    if place < 0 or len(head) < place + 92:
        return False
    promised = int.from_bytes(head[place + 40 : place + 48], "little")
    flags = int.from_bytes(head[place + 88 : place + 92], "little")
    return not flags & BROADCAST and stream.seek(0, 2) < COMPLETE * promised
