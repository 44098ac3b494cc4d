"""Direction, order, growth and speed in pairs of videos of the same frames, as in TempCompass.

Source and licence: drawn here, on the photographs of photos.py (CC BY 2.0, CC0, public domain).
Splits: no photograph and no seed serves two splits. The scenes 2k and 2k + 1 are a pair.
Sample: Does the star grow or shrink? -> grow
"""

import numpy as np

from zipr1.data.example import Example
from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, SHAPES, by_pair, labelled, pick, stamp, tint
from .motion import DIRECTIONS
from .photos import background

SIDE, FRAMES = 96, 8
BLOCK = 2 * CELL
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
CHANGES = ("grow", "shrink")


def questions_of(
    kind: str, second: int, colours: list[str], shapes: list[str], direction: str
) -> tuple[tuple[str, str], ...]:
    """(question, answer) pairs about a scene; second: 1 for the second scene of a pair."""
    change, (one, two) = CHANGES[second], (second, 1 - second)  # `one` comes first
    return {
        "move": (
            (f"Which way does the {shapes[0]} move?", direction),
            (f"Which way does the {colours[0]} object move?", direction),
            ("Which way does the moving object go?", direction),
        ),
        "grow": (
            (f"Does the {shapes[0]} grow or shrink?", change),
            (f"Does the {colours[0]} object grow or shrink?", change),
            ("What colour is the object?", colours[0]),
        ),
        "order": (
            ("What colour comes first?", colours[one]),
            ("What shape comes first?", shapes[one]),
            ("What colour comes last?", colours[two]),
            ("What shape comes last?", shapes[two]),
        ),
        "speed": (
            ("Do the objects take turns fast or slow?", "fast" if second else "slow"),
            (f"Does the {shapes[0]} come once or twice?", "twice" if second else "once"),
            (f"What colour is the {shapes[1]}?", colours[1]),
        ),
    }[kind]


class Tempo(Task):
    """A shape moves or grows, or two shapes alternate, slowly or fast.

    Every second scene shows the same frames backwards or at the other speed, so that a single frame
    does not give the answer.
    """

    name = "tempo"
    video = True
    pairs = True
    mirrors = "TempCompass"
    label_words = {
        "colour": COLOUR_NAMES,
        "shape": SHAPES,
        "direction": tuple(DIRECTIONS),
        "change": CHANGES,
    }

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index // 2)
        second = index % 2  # of its pair
        back = background(split, rng, SIDE)
        colours, shapes = pick(rng, COLOUR_NAMES, 2), pick(rng, SHAPES, 2)
        rgb = [tint(rng, colour) for colour in colours]
        kind = pick(rng, ["move", "grow", "order", "speed"])
        direction = pick(rng, list(DIRECTIONS))
        x, y = (BLOCK * int(v) for v in rng.integers(0, 3, size=2))
        if kind == "move":
            dx, dy = DIRECTIONS[direction]
            across = [CELL * int(v) for v in rng.integers(0, 5, size=2)]
            # Across the frame; in reverse order to the left and upwards.
            path = [4 + 8 * t for t in range(FRAMES)][:: dx + dy]
            drawn = [(0, 28, (along, across[0]) if dx else (across[0], along)) for along in path]
        elif kind == "grow":
            sizes = [24 + 8 * t for t in range(FRAMES)]
            drawn = [(0, size, ((SIDE - size) // 2, (SIDE - size) // 2)) for size in sizes]
        else:
            rhythm = (
                [0, 0, 0, 0, 1, 1, 1, 1]
                if kind == "order" or not second
                else [0, 0, 1, 1, 0, 0, 1, 1]
            )
            drawn = [(i, 30, (x + 1, y + 1)) for i in rhythm]
        if second and kind != "speed":
            drawn, direction = drawn[::-1], OPPOSITE[direction]

        frames, covered = [], np.zeros((2, FRAMES, SIDE // CELL, SIDE // CELL))
        for t, (i, size, corner) in enumerate(drawn):
            frames.append(back.copy())
            covered[i, t] = stamp(frames[t], shapes[i], size, corner, rgb[i])
        change = CHANGES[second]
        questions = questions_of(kind, second, colours, shapes, direction)
        pairs = by_pair(covered)
        nothing = np.zeros(pairs.shape[1:], int)
        labels = {
            "colour": labelled(pairs, colours, COLOUR_NAMES),
            "shape": labelled(pairs, shapes, SHAPES),
            "direction": labelled(pairs[:1], [direction], tuple(DIRECTIONS))
            if kind == "move"
            else nothing,
            "change": labelled(pairs[:1], [change], CHANGES) if kind == "grow" else nothing,
        }
        return Scene(f"{self.name}/{split}/{index}", questions, frames=tuple(frames), labels=labels)

    def example(self, split: str, index: int) -> Example:
        """The same question about both scenes of a pair; a single frame does not answer it."""
        scene = self.scene(split, index)
        numbers = [
            i
            for i, (question, _) in enumerate(scene.questions)
            if not question.startswith("What colour is")
        ]
        return self.example_of(scene, numbers[self.drawn(split, index // 2, len(numbers))])
