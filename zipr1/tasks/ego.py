"""First-person videos: what does the camera do?

Source and licence: walks.py, the engine ViZDoom (MIT) with the maps of Freedoom (BSD 3-clause).
Splits: by map: Freedoom 2 for train, different maps of Freedoom 1 for the others.
Sample: What does the camera do? -> turn left
"""

import numpy as np
from PIL import Image

from zipr1.tasks.base import CELL, Scene, Task

from .walks import ACTIONS, FRAMES, MAPS, RECORDINGS_PER_MAP, SIDE, WIDE, Recording, recordings


def walk(split: str, index: int) -> Recording:
    """Recording `index` of a split; neighbours differ in their map, mirror images come last."""
    maps = MAPS[split]
    number, slot = index % len(maps), index // len(maps)
    # recordings() alternates the actions; "+ number" makes neighbouring scenes differ in action.
    recording = recordings(*maps[number])[(slot + number) % RECORDINGS_PER_MAP]
    return recording.mirrored() if slot // RECORDINGS_PER_MAP % 2 else recording


class Ego(Task):
    """The camera walks forward or backward, or turns left or right."""

    name = "ego"
    video = True
    mirrors = "EgoSchema"
    label_words = {"action": ACTIONS}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        recording = walk(split, index)
        left = int(rng.integers(0, WIDE - SIDE + 1))  # the part shown differs at each repetition
        frames = tuple(
            Image.fromarray(frame) for frame in recording.frames[:, :, left : left + SIDE]
        )
        turns = recording.action.startswith("turn")
        questions = [
            ("What does the camera do?", recording.action),
            ("How does the camera move?", recording.action),
            ("Does the camera turn?", "yes" if turns else "no"),
        ]
        if turns:
            questions.append(
                ("Which way does the camera turn?", recording.action.removeprefix("turn "))
            )
            questions.append(
                (
                    "Does the camera turn to the left?",
                    "yes" if recording.action == "turn left" else "no",
                )
            )
        else:
            questions.append(("Does the camera move forward or backward?", recording.action))
            questions.append(
                ("Does the camera move forward?", "yes" if recording.action == "forward" else "no")
            )
        action = np.full(
            (FRAMES // 2, SIDE // CELL, SIDE // CELL), ACTIONS.index(recording.action) + 1
        )
        return Scene(
            f"{self.name}/{split}/{index}",
            tuple(questions),
            frames=frames,
            labels={"action": action},
        )
