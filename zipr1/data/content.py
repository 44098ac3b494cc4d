"""Recognises, by their first bytes, files that are neither an image nor a video."""

from codecs import getincrementaldecoder

# Files that stand where media should be; each with what to do about it.
PREFIXES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run git lfs pull"),
    (b"%PDF", "a PDF document; export the page as PNG"),
    (b"%!PS", "a PostScript file; export it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file; export it as PNG"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile; export it as PNG"),
    (b"\xff\x0a", "a JPEG XL image, which is not decoded; convert it to PNG or JPEG"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image, which is not decoded; convert it to PNG or JPEG"),
    (b"II\xbc\x01", "a JPEG XR image, which is not decoded; convert it to PNG or JPEG"),
    (b"AT&TFORM", "a DjVu document; export the page as PNG"),
    (b"gimp xcf", "a project of GIMP; export the image as PNG"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file; develop it to JPEG or PNG"),
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"BZh", "a bzip2 archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive; unpack it"),
    (b"\xfd7zXZ\x00", "an xz archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it"),
    (b"PAR1", "a Parquet table; give it as the data set"),
    (b"\x89HDF", "an HDF5 file; export the image as PNG"),
    (b"\x93NUMPY", "a NumPy array; export the image as PNG"),
)
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Text formats that Pillow or FFmpeg decode: portable pixmaps, X pixmaps and bitmaps, raw video.
TEXT_MEDIA = (b"P1", b"P2", b"P3", b"/* XPM */", b"#define", b"YUV4MPEG2", b"Pf", b"PF")


def unsupported_content(head: bytes) -> str | None:
    """Says what the file that starts with `head` is and what to do, or None where it may be an
    image or a video."""
    if not head:
        return "an empty file; download it again"
    if not any(head):
        return "zero bytes only, an unfinished download; download it again"
    for prefix, kind in PREFIXES:
        if head.startswith(prefix):
            return kind
    if head[4:12] == b"ftypcrx ":  # FFmpeg would decode its preview
        return "a camera's raw file; develop it to JPEG or PNG"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    return text_content(head)


def is_heif(head: bytes) -> bool:
    """Whether this is a HEIF image (.heic), as iPhones take them."""
    return head[4:8] == b"ftyp" and head[8:12] in HEIF and b"avif" not in head[8:64]


def text_content(head: bytes) -> str | None:
    """What a text is; None for binary data and for the text formats that hold images."""
    if head.startswith(TEXT_MEDIA):
        return None
    encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    decoder = getincrementaldecoder(encoding)()  # which allows a character cut at the end
    try:
        text = decoder.decode(head)
    except UnicodeDecodeError:
        return None
    if not all(character.isprintable() or character.isspace() for character in text):
        return None
    lower = text.lower().lstrip()
    if "<svg" in lower:
        return "an SVG drawing; export it as PNG"
    if lower.startswith(("<!doctype html", "<html", "<head", "<body")) or "<html" in lower:
        return "an HTML page, often the error page of a download; download the file again"
    if lower.startswith("<?xml") or lower.startswith("<"):
        return "an XML document, often the error message of a download; download the file again"
    if lower.startswith(("{", "[")):
        return "a JSON text, often the error message of a download; download the file again"
    if lower.startswith(("#extm3u", "ffconcat", "v=0", "[playlist]")):
        return "a playlist; give the video file itself"
    begin = " ".join(text.split())[:40]
    return f"a text file ({begin!r}), neither an image nor a video"
