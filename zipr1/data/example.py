"""One question with its media and its expected answer: what every part of zipr1 passes on."""

import re
from dataclasses import dataclass, field

from PIL import Image

VIDEO_FPS = 2.0  # frames per second of rendered videos; sets the temporal positions only


def final(completion: str) -> str:
    """The answer in a completion: what follows </think>, in <answer> tags if there are any.

    Empty where the completion ends before its thoughts do.
    """
    if "<think>" in completion and "</think>" not in completion:
        return ""
    rest = completion.rsplit("</think>")[-1]
    # Up to the last end tag, so that unclosed tags are not searched again and again.
    closed = rest[: rest.rfind("</answer>") + len("</answer>")] if "</answer>" in rest else ""
    tagged = re.findall(r"<answer>(.*?)</answer>", closed, re.DOTALL)
    return (tagged[-1] if tagged else rest).strip()


@dataclass(frozen=True)
class Video:
    """Sampled frames and when they are on screen. Raises ValueError for other times than frames."""

    frames: tuple[Image.Image, ...]
    fps: float  # sampled frames per second, on average
    times: tuple[float, ...] = ()  # seconds from the first frame; empty: evenly spaced by `fps`

    def __post_init__(self):
        if self.times and len(self.times) != len(self.frames):
            raise ValueError(f"{len(self.frames)} frames, but {len(self.times)} times")

    @property
    def metadata(self) -> dict:
        """What transformers' processors take from a video: the temporal positions (Qwen2.5-VL) and
        the timestamps in the prompt (Qwen3-VL), which they compute as frames_indices / fps."""
        count = len(self.frames)
        indices = [time * self.fps for time in self.times] or list(range(count))
        return {"fps": self.fps, "total_num_frames": count, "frames_indices": indices}


def sampled_video(frames: tuple[Image.Image, ...], times: tuple[float, ...]) -> Video:
    """A video of frames that begin at `times`; of a single frame, or all at once, VIDEO_FPS."""
    seconds = times[-1] - times[0]
    return Video(frames, (len(times) - 1) / seconds if seconds > 0 else VIDEO_FPS, times)


@dataclass(frozen=True)
class Example:
    """One question about an image or a video of an embedded task; or a row of a data set, with any
    number of images and at most one video."""

    id: str  # "shapes/test/17/3": task, split, scene, question
    task: str  # "" for a row of a data set
    question: str
    answer: str
    image: Image.Image | None = None
    frames: tuple[Image.Image, ...] | None = None
    fps: float = VIDEO_FPS  # of `frames`
    images: tuple[Image.Image, ...] = ()  # several, in the order in which the prompt names them
    messages: tuple[dict, ...] = ()  # the whole prompt, where it is more than a question
    problem_type: str = ""  # how `answer` is graded (zipr1.rewards.graders); "": by the task
    columns: dict = field(default_factory=dict)  # the others of the row, for own reward functions
    times: tuple[float, ...] = ()  # of `frames`, see Video; empty: evenly spaced by `fps`

    @property
    def all_images(self) -> tuple[Image.Image, ...]:
        """The single image or the several ones."""
        return self.images if self.image is None else (self.image, *self.images)

    @property
    def video(self) -> Video | None:
        """The frames with their times."""
        return None if self.frames is None else Video(self.frames, self.fps, self.times)
