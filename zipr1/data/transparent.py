"""Transparent VP8 and VP9 videos: FFmpeg's own decoders leave their transparency out."""

from collections.abc import Iterator

from av import CodecContext, VideoFrame
from av.codec.codec import UnknownCodecError

from zipr1.data.source import MediaError

DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # which keep it


def decoded_frames(container, stream, name: str) -> Iterator[VideoFrame]:
    """The frames from where the container stands. Raises MediaError, which names `name`, for a
    transparent video that cannot be decoded as such."""
    marked = any(
        key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items()
    )
    decoder = DECODERS.get(stream.codec_context.name)
    if not (marked and decoder):
        yield from container.decode(stream)
        return
    try:
        context = CodecContext.create(decoder, "r")
    except UnknownCodecError as error:
        raise MediaError(
            f"{name}: a transparent video, which needs the decoder {decoder}; write it again "
            "without transparency"
        ) from error
    context.options = stream.codec_context.options
    for packet in container.demux(stream):
        yield from context.decode(packet)
