"""What a task is: scenes that can be drawn again from (split, index), questions about them, and who is right."""

import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from zipr1.data.example import Example

SPLITS = ("train", "val", "test")
CELL = 16  # pixels: the side of the square one visual token of zipr1/tiny covers (patch 8, merge 2)


@dataclass(frozen=True)
class Scene:
    """A picture or a clip with every question it can answer.

    `labels` names what lies under each visual token, for the helper loss of pretraining only. Each value is an
    integer array of shape (T, H, W) in units of visual tokens (T = 1 for a picture, one per two frames for a
    clip); 0 means nothing.
    """

    id: str
    questions: tuple[tuple[str, str], ...]  # (question, answer)
    image: Image.Image | None = None
    frames: tuple[Image.Image, ...] | None = None
    labels: dict[str, np.ndarray] = field(default_factory=dict)


class Task:
    """Data, prompt, metric and reward of one family of questions. A new task overrides `name`, `clip` and `scene`."""

    name: str
    clip = False  # frames instead of a picture
    pairs = False  # the examples 2k and 2k + 1 belong together, and a guess seldom gets both (`zipr1.lab.tiny13_tables.pair_table`)
    mirrors = ""  # the benchmark of the paper's tables that it stands in for (zipr1.paper_tasks)
    label_words: dict[
        str, tuple[str, ...]
    ] = {}  # what class 1, 2, ... of each entry of Scene.labels is called, in any task

    def scene(self, split: str, index: int) -> Scene:
        """The scene number `index` of a split: a function of its arguments alone, from sources no other split uses."""
        raise NotImplementedError

    def rng(self, split: str, index: int) -> np.random.Generator:
        """The randomness of one scene."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
        return np.random.default_rng([zlib.crc32(self.name.encode()), SPLITS.index(split), index])

    def example(self, split: str, index: int) -> Example:
        """One question of scene `index`, drawn at random (seeded), so that every kind of question gets its share."""
        scene = self.scene(split, index)
        return self.example_of(scene, self.drawn(split, index, len(scene.questions)))

    def drawn(self, split: str, index: int, count: int) -> int:
        """One of `count`, seeded."""
        return int(np.random.default_rng([7, SPLITS.index(split), index]).integers(count))

    def example_of(self, scene: Scene, number: int) -> Example:
        """A question of a scene."""
        question, answer = scene.questions[number]
        return Example(
            f"{scene.id}/{number}", self.name, question, answer, scene.image, scene.frames
        )

    def right(self, completion: str, answer: str) -> bool:
        """The metric and the paper's binary reward r_per: the same words, case and a final full stop aside."""
        return completion.strip().rstrip(".").casefold() == answer.casefold()


class PairTask(Task):
    """The questions 2i and 2i + 1 of a scene are a pair; the examples 2k and 2k + 1 are one of those of scene k."""

    pairs = True

    def example(self, split: str, index: int) -> Example:
        scene = self.scene(split, index // 2)
        return self.example_of(
            scene, 2 * self.drawn(split, index // 2, len(scene.questions) // 2) + index % 2
        )
