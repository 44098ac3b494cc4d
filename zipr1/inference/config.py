"""The settings of `zipr1 answer`."""

from dataclasses import dataclass

from zipr1.common.checks import check_positive
from zipr1.common.scope import Scope


@dataclass
class AnswerConfig:
    """`zipr1 answer`: asks a model one question about a picture or a clip, under sparse attention."""

    file: str
    """Picture or clip."""
    question: str
    """What is asked."""
    model: str = "zipr1/tiny"
    """Hub id, folder, or the embedded model."""
    p: float | None = None
    """Fraction of the attention to keep; unset, as the model was trained (0.975 for a model that
    was not)."""
    scope: Scope | None = None
    """What follows the kept tokens (zipr1.sparse); unset, as trained."""
    picture: str | None = None
    """Where to draw the kept tokens; .gif, .webp or .pdf: a page a layer too."""
    compare: bool = False
    """Answer with dense attention too."""
    max_new_tokens: int = 64
    """Tokens of the answer, at most."""
    max_frames: int = 16
    """Frames of a clip; never more than the processor's own limit."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self):
        check_positive(self, "max_new_tokens", "max_frames")
