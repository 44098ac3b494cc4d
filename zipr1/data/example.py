"""One question with its media and its expected answer: what every part of zipr1 passes on."""

import re
from dataclasses import dataclass, field

from PIL import Image


def final(completion: str) -> str:
    """The answer in a completion: after the thoughts, in <answer> tags if there are some; "" if the thoughts never end."""
    if "<think>" in completion and "</think>" not in completion:
        return ""
    said = completion.rsplit("</think>")[-1]
    tagged = re.findall(r"<answer>(.*?)</answer>", said, re.DOTALL)
    return (tagged[-1] if tagged else said).strip()


CLIP_FPS = 2.0  # frames a second of rendered clips; sets the temporal positions only


@dataclass(frozen=True)
class Example:
    """One question about one picture or one clip, of an embedded task; or a row of a data set, with any number of pictures."""

    id: str  # "shapes/test/17/3": task, split, scene, question
    task: str  # "" for a row of a data set
    question: str
    answer: str
    image: Image.Image | None = None
    frames: tuple[Image.Image, ...] | None = None
    fps: float = CLIP_FPS  # of `frames`
    images: tuple[
        Image.Image, ...
    ] = ()  # several pictures, in the order in which the prompt names them
    messages: tuple[dict, ...] = ()  # the whole prompt, where it is more than a question
    problem_type: str = ""  # how `answer` is graded (zipr1.graders); "": by the task
    columns: dict = field(
        default_factory=dict
    )  # what else the row says, for users' own reward functions

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        return self.images if self.image is None else (self.image, *self.images)
