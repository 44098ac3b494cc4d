"""The settings of `zipr1 play`."""

from dataclasses import dataclass
from typing import Literal

from zipr1.common.checks import check_positive, check_ranges, check_share
from zipr1.common.scope import Scope


@dataclass
class PlayConfig:
    """`zipr1 play`: a page in the browser that answers questions about images and videos, sparse
    and dense, and draws the kept tokens.

    zipr1 play zipr1/tiny
    zipr1 play Qwen/Qwen2.5-VL-3B-Instruct --port 8080 --max_pixels 401408

    It needs the extra `play`, and listens on this machine alone unless --host says otherwise.
    """

    model: str
    """The model: a hub id, a folder, or the embedded one."""
    p: float | None = None
    """Where the slider starts: the fraction of the attention to keep; unset, as the model was
    trained (0.975 for a model that was not)."""
    scope: Scope | None = None
    """What dropped tokens skip at the start (zipr1.sparse): the attention, the whole layer, or the
    attention as keys alone; unset, as the model was trained."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] | None = None
    """The type of the weights; auto is the checkpoint's, unset, what transformers chooses."""
    max_new_tokens: int = 64
    """The largest number of tokens of an answer."""
    max_frames: int = 16
    """The number of frames of a video; never more than the processor's own limit."""
    max_pixels: int | None = None
    """The largest area of an image in pixels; larger ones are shrunk. Unset, the processor's own
    limit."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for all, which lets everyone in the network ask."""
    port: int = 7860
    """The port to listen on."""

    def __post_init__(self):
        check_positive(self, "max_new_tokens", "max_frames", "max_pixels")
        check_share(self, "p")
        check_ranges(self, {"[1, 65535]": "port"})
