"""The settings of `zipr1 answer`."""

import re
from dataclasses import dataclass, field
from os.path import isfile

from zipr1.common.checks import check_positive, check_share
from zipr1.common.errors import InputError
from zipr1.common.scope import Scope

MEDIA = re.compile(r"\S+\.(jpe?g|png|gif|webp|bmp|tiff?|heic|mp4|mkv|mov|avi|webm)", re.IGNORECASE)


def names_media(text: str) -> bool:
    """Whether a text is the path of a file, or has the form of an image's or a video's."""
    return isfile(text) or MEDIA.fullmatch(text) is not None


@dataclass
class AnswerConfig:
    """`zipr1 answer`: answers a question about images, videos or text, under sparse attention.

    zipr1 answer photo.jpg "What is on the sign?"
    zipr1 answer before.png after.png "What has changed?"
    zipr1 answer "What is the capital of Peru?" --system "Answer in one word."
    cat photo.jpg | zipr1 answer - "What is this?"
    """

    question: str
    """The question; - reads it from standard input."""
    files: list[str] = field(default_factory=list)
    """Images and videos in the order in which the model sees them: paths, file: or data: URIs, or -
    for standard input. None for a question about text alone."""
    system: str | None = None
    """The system prompt; unset, what the model's chat template has."""
    model: str = "zipr1/tiny"
    """The model: a hub id, a folder, or the embedded one."""
    p: float | None = None
    """The fraction of the attention to keep; unset, as the model was trained (0.975 for a model
    that was not)."""
    scope: Scope | None = None
    """What follows the kept tokens (zipr1.sparse); unset, as the model was trained."""
    picture: str | None = None
    """The file to draw the kept tokens to; .gif, .webp and .pdf get a page for each layer too."""
    compare: bool = False
    """Whether to answer with dense attention too."""
    max_new_tokens: int = 64
    """The largest number of tokens of the answer."""
    max_frames: int = 16
    """The number of frames of a video; never more than the processor's own limit."""
    json: bool = False
    """Whether to print one JSON object."""

    def __post_init__(self):
        check_positive(self, "max_new_tokens", "max_frames")
        check_share(self, "p")
        if not self.question.strip():
            raise InputError("the question is empty: ask something")
        if not self.files and names_media(self.question):
            raise InputError(
                f"{self.question}: a file without a question; add what to ask about it"
            )
        if [*self.files, self.question].count("-") > 1:
            raise InputError("-: standard input can be read once; give the others as files")
        if self.picture and not self.files:
            raise InputError(f"--picture {self.picture}: needs an image or a video to draw over")
