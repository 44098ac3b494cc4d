"""Messages of lmms-eval as turns of a chat, with their images and videos read."""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from lmms_eval.protocol import ChatMessage, ChatMessages
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.data.example import Video
from zipr1.data.images import read_image, upright_rgb
from zipr1.data.source import MediaError, NotAnImage
from zipr1.data.whole_images import whole_images_only

VideoReader = Callable[..., Video]  # as data.videos.read_video


class MediaReader:
    """Reads the media files of questions; of each video at most `max_frames` frames, `fps` a
    second.

    read_video: reads one file; several questions in a row may be about it, so it may cache.
    """

    def __init__(self, read_video: VideoReader, max_frames: int, fps: float | None):
        self.read_video, self.max_frames, self.fps = read_video, max_frames, fps

    def turn(self, message: ChatMessage, images: list, videos: list) -> dict:
        """A message as the chat template takes it; its images and videos are appended to `images`
        and `videos`. Raises MediaError for a file that cannot be read."""
        parts = [self.part(content, images, videos) for content in message.content]
        return {"role": message.role, "content": parts}

    def part(self, content, images: list, videos: list) -> dict:
        if content.type == "text":
            return {"type": "text", "text": content.text}
        if content.type == "image":
            return self.image(content.url, images, videos)
        if content.type == "video" and content.start_time is None and content.end_time is None:
            videos.append(self.read_video(content.url, self.max_frames, self.fps))
            return {"type": "video"}
        raise InputError(f"{str(content)[:200]}: only text, images and whole videos are read")

    def image(self, image: Image.Image | str, images: list, videos: list) -> dict:
        """An image, or an animation, which is a video whatever the task calls it."""
        try:
            images.append(
                upright_rgb(image) if isinstance(image, Image.Image) else read_image(image)
            )
            return {"type": "image"}
        except NotAnImage:
            source = file_of(image) if isinstance(image, Image.Image) else image
            videos.append(self.read_video(source, self.max_frames, self.fps))
            return {"type": "video"}


def read_messages(messages_of: Callable, docs, task: str, doc: int) -> list[ChatMessage]:
    """The chat of question `doc` of a task; `datasets` decodes its images while it is read.

    Raises MediaError, which names the question, for an image that is truncated or unreadable.
    """
    try:
        with whole_images_only():
            return ChatMessages(messages=messages_of(docs[doc])).messages
    except (OSError, SyntaxError) as error:  # what Pillow raises for a broken file
        raise MediaError(f"{task}, question {doc}: its media cannot be read ({error})") from error


def file_of(image: Image.Image) -> str | bytes:
    """The path, or the content, of an animation that Pillow has opened."""
    if getattr(image, "filename", ""):
        return image.filename
    file = getattr(image, "fp", None)
    if file is None:
        raise MediaError(f"{image.format}: an animation whose file is closed; give its path")
    position = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(position)
    return content


def media_of(messages: list[ChatMessage]) -> str:
    """What a question is about: the names of its videos, checksums of its images; "" of text alone.

    Questions that share it are not independent samples.
    """
    media = [
        content.url for message in messages for content in message.content if content.type != "text"
    ]
    return " ".join(
        f"{crc32(url.tobytes()):08x}" if isinstance(url, Image.Image) else Path(url).name
        for url in media
    )
