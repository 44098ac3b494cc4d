"""The settings of `zipr1 answer`."""

import re
from dataclasses import dataclass, field
from os.path import isdir, isfile
from typing import Literal

from zipr1.common.checks import check_positive, check_share
from zipr1.common.errors import InputError
from zipr1.common.scope import Scope
from zipr1.data.media_values import SUFFIXES
from zipr1.data.source import short

RULES = ("zipvl", "topk", "random", "recent", "fastv")
RATIO = 0.25
FURTHER = "heif jfif jpe jp2 jxl wmv flv 3gp ogv"  # images and videos, whether they are read or not
IMAGES_AND_VIDEOS = "|".join((*SUFFIXES["image"], *SUFFIXES["video"], *FURTHER.split()))
OTHERS = "|".join((*SUFFIXES["audio"], "ts", "mts", "m2ts", "svg", "psd", "pdf"))
MEDIA = re.compile(rf".*\.({IMAGES_AND_VIDEOS})", re.IGNORECASE)
# A text without white space: a file's name, an address, a data URI.
NAME = re.compile(
    rf"\S*\.({IMAGES_AND_VIDEOS}|{OTHERS})|(file:|[a-z][a-z0-9+.-]*://)\S+|data:[^\s,]*,\S*",
    re.IGNORECASE,
)


def names_media(text: str, alone: bool) -> bool:
    """Whether a text is the path of a file or a folder, or has the form of a file's name or of an
    address. A name with spaces counts only where it stands `alone`: a question about files may end
    in the name of one."""
    form = NAME.fullmatch(text) or (alone and MEDIA.fullmatch(text))
    return bool(form) or isfile(text) or ("/" in text and isdir(text))


def check_text(text: str, name: str) -> None:
    """Raises InputError for bytes of the command line that are no UTF-8 (lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} has {text[error.start]!r} at position {error.start}, which is no character: "
            "give it as UTF-8"
        ) from error


@dataclass
class AnswerConfig:
    """`zipr1 answer`: answers a question about images, videos or text, under sparse attention.

    zipr1 answer photo.jpg "What is on the sign?"
    zipr1 answer before.png after.png "What has changed?"
    zipr1 answer "What is the capital of Peru?" --system "Answer in one word."
    cat photo.jpg | zipr1 answer - "What is this?"
    """

    question: str
    """The question; - reads it from standard input. <image>, <video> or <image 2> in it mark the
    places of the files; without them the files come first."""
    files: list[str] = field(default_factory=list)
    """Images and videos in the order in which the model sees them: paths, file: or data: URIs, or -
    for standard input. None for a question about text alone."""
    system: str | None = field(default=None, metadata={"empty": True})
    """The system prompt; unset, what the model's chat template has."""
    model: str = "zipr1/tiny"
    """The model: a hub id, a folder, or the embedded one."""
    p: float | None = None
    """The fraction of the attention to keep under the rule zipvl; unset, as the model was trained
    (0.975 for a model that was not)."""
    rule: str = "zipvl"
    """The selection rule: zipvl (Top-p), topk, random, recent or fastv, or your own as
    package.module:Rule or file.py:Rule."""
    ratio: float | None = None
    """The token ratio of the other rules: the fraction of the tokens to keep; unset, 0.25."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """The type of the weights; auto is the checkpoint's, unset, what transformers chooses."""
    scope: Scope | None = None
    """What dropped tokens skip (zipr1.sparse): the attention, the whole layer, or the attention as
    keys alone; unset, as the model was trained."""
    picture: str | None = None
    """The file to draw the kept tokens to; .gif, .webp and .pdf get a page for each layer too."""
    compare: bool = False
    """Whether to answer with dense attention too, and to compare times and peak memory."""
    max_new_tokens: int = 64
    """The largest number of tokens of the answer."""
    max_frames: int = 16
    """The number of frames of a video; never more than the processor's own limit."""
    max_pixels: int | None = None
    """The largest area of an image in pixels; larger ones are shrunk. Unset, the processor's own
    limit."""
    json: bool = False
    """Whether to print one JSON object."""

    def __post_init__(self):
        if not self.question.strip():
            raise InputError("the question is empty: ask something")
        check_text(self.question, "the question")
        check_text(self.system or "", "--system")
        check_positive(self, "max_new_tokens", "max_frames", "max_pixels")
        check_share(self, "p", "ratio")
        self.check_rule()
        if names_media(self.question, alone=not self.files):
            raise InputError(
                f"{short(self.question)}: a file without a question; add what to ask about it"
            )
        if [*self.files, self.question].count("-") > 1:
            raise InputError("-: standard input can be read once; give the others as files")
        if self.picture and not self.files:
            raise InputError(f"--picture {self.picture}: needs an image or a video to draw over")

    def check_rule(self) -> None:
        """Raises InputError for an unknown rule, and for an option that the rule does not have."""
        own = ":" in self.rule
        if self.rule not in RULES and not own:
            raise InputError(
                f"rule={self.rule[:80]}: expected one of {', '.join(RULES)}, or your own rule as "
                "package.module:Rule or file.py:Rule"
            )
        if self.p is not None and self.rule != "zipvl" and not own:
            raise InputError(f"p={self.p}: an option of the rule zipvl; {self.rule} has a ratio")
        if self.ratio is not None and self.rule == "zipvl":
            raise InputError(f"ratio={self.ratio}: zipvl keeps what p says; give --rule topk")
