"""An embedded task: scenes as functions of (split, index), and questions about them."""

import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.data.example import Example

# experiments/sealed.py asks "sealed" once for each row of a table, and records that; one choice
# followed from it (docs/results.md).
SPLITS = ("train", "val", "test", "sealed")
CELL = (
    16  # pixels: side of the square that one visual token of zipr1/tiny covers (patch 8, merge 2)
)


@dataclass(frozen=True)
class Scene:
    """An image or a video with every question about it.

    `labels` names the content of each visual token, for the auxiliary loss of pretraining only.
    Each value is an integer array of shape (T, H, W) in units of visual tokens, with T = 1 for an
    image and one per two frames for a video; 0 stands for no label.
    """

    id: str
    questions: tuple[tuple[str, str], ...]  # (question, answer)
    image: Image.Image | None = None
    frames: tuple[Image.Image, ...] | None = None
    labels: dict[str, np.ndarray] = field(default_factory=dict)


class Task:
    """Scenes of one kind with their questions. A new task overrides `name`, `video`, `scene`.

    Answers are graded as problem type "exact" (zipr1.rewards.graders).
    """

    name: str
    video = False  # frames instead of an image
    # Whether the examples 2k and 2k + 1 are a pair, as in zipr1.lab.tiny13_tables.pair_table: a
    # guess seldom answers both correctly.
    pairs = False
    mirrors = ""  # the benchmark of the paper that the task stands in for
    # Names of the classes 1, 2, ... of each entry of Scene.labels; shared by all tasks.
    label_words: dict[str, tuple[str, ...]] = {}

    def scene(self, split: str, index: int) -> Scene:
        """Scene `index` of a split: depends on its arguments only; no source serves two splits."""
        raise NotImplementedError

    def rng(self, split: str, index: int) -> np.random.Generator:
        """The random generator of one scene. Raises InputError for an unknown split."""
        if split not in SPLITS:
            raise InputError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
        return np.random.default_rng([zlib.crc32(self.name.encode()), SPLITS.index(split), index])

    def example(self, split: str, index: int) -> Example:
        """One question of scene `index`, chosen uniformly with a fixed seed."""
        scene = self.scene(split, index)
        return self.example_of(scene, self.drawn(split, index, len(scene.questions)))

    def drawn(self, split: str, index: int, count: int) -> int:
        """A random number below `count`, a function of split and index."""
        return int(np.random.default_rng([7, SPLITS.index(split), index]).integers(count))

    def example_of(self, scene: Scene, number: int) -> Example:
        """Question `number` of a scene."""
        question, answer = scene.questions[number]
        return Example(
            f"{scene.id}/{number}",
            self.name,
            question,
            answer,
            scene.image,
            scene.frames,
            problem_type="exact",
        )


class PairTask(Task):
    """Questions 2i and 2i + 1 of a scene are a pair; examples 2k and 2k + 1 are one of scene k."""

    pairs = True

    def example(self, split: str, index: int) -> Example:
        scene = self.scene(split, index // 2)
        return self.example_of(
            scene, 2 * self.drawn(split, index // 2, len(scene.questions) // 2) + index % 2
        )
