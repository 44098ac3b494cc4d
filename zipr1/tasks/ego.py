"""First-person clips: what does the camera do?

Source and licence: walks.py, the engine ViZDoom (MIT) with the maps of Freedoom (BSD 3-clause); nothing is drawn
here.
Splits: by map. train walks through Freedoom 2; val and test through episodes of Freedoom 1 that differ.
Sample: What does the camera do? -> turn left
"""

import numpy as np
from PIL import Image

from zipr1.tasks.base import CELL, Scene, Task

from .walks import ACTIONS, CLIPS_PER_MAP, FRAMES, MAPS, SIDE, WIDE, Clip, clips


def walk(split: str, index: int) -> Clip:
    """Neighbouring walks come from different maps; after all clips of a split come their mirror images."""
    maps = MAPS[split]
    number, slot = index % len(maps), index // len(maps)
    # clips() has the actions in turn; "+ number" lets neighbouring scenes differ in their action too
    clip = clips(*maps[number])[(slot + number) % CLIPS_PER_MAP]
    return clip.mirrored() if slot // CLIPS_PER_MAP % 2 else clip


class Ego(Task):
    """The camera walks forward or backward, or turns left or right."""

    name = "ego"
    video = True
    mirrors = "EgoSchema"
    label_words = {"action": ACTIONS}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        clip = walk(split, index)
        left = int(
            rng.integers(0, WIDE - SIDE + 1)
        )  # when a clip comes again, another part of it is shown
        frames = tuple(Image.fromarray(frame) for frame in clip.frames[:, :, left : left + SIDE])
        turns = clip.action.startswith("turn")
        questions = [
            ("What does the camera do?", clip.action),
            ("How does the camera move?", clip.action),
            ("Does the camera turn?", "yes" if turns else "no"),
        ]
        if turns:
            questions.append(("Which way does the camera turn?", clip.action.removeprefix("turn ")))
            questions.append(
                ("Does the camera turn to the left?", "yes" if clip.action == "turn left" else "no")
            )
        else:
            questions.append(("Does the camera move forward or backward?", clip.action))
            questions.append(
                ("Does the camera move forward?", "yes" if clip.action == "forward" else "no")
            )
        action = np.full((FRAMES // 2, SIDE // CELL, SIDE // CELL), ACTIONS.index(clip.action) + 1)
        return Scene(
            f"{self.name}/{split}/{index}",
            tuple(questions),
            frames=frames,
            labels={"action": action},
        )
