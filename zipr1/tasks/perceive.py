"""Is it there? Pairs of questions about one image, one answered yes and one no, as in MME.

Source and licence: drawn here, on the photographs of photos.py (CC BY 2.0, CC0, public domain).
Splits: no photograph serves two splits, and neither does a seed.
Sample: Is there anything red? -> yes
"""

from zipr1.tasks.base import PairTask, Scene

from .draw import COLOUR_NAMES, SHAPES, labelled, pick, stamp, tint
from .photos import background

SIDE = 128
HALF = SIDE // 2
BLOCK = HALF // 2


class Perceive(PairTask):
    """A large shape that fills a quarter of the image, and one or two small ones elsewhere."""

    name = "perceive"
    mirrors = "MME"
    label_words = {"colour": COLOUR_NAMES, "shape": SHAPES}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        image = background(split, rng, SIDE)
        count = int(rng.integers(2, 4))
        colours, shapes = pick(rng, COLOUR_NAMES, count), pick(rng, SHAPES, count)
        areas = []
        for i, (right, bottom) in enumerate(pick(rng, [(0, 0), (1, 0), (0, 1), (1, 1)], count)):
            room = BLOCK if i else HALF  # small ones lie on 2 x 2 visual tokens
            size = room - int(rng.integers(0, 5))
            x, y = (BLOCK * int(rng.integers(2)) if i else 0 for _ in range(2))
            corner = (
                HALF * right + x + int(rng.integers(room - size + 1)),
                HALF * bottom + y + int(rng.integers(room - size + 1)),
            )
            areas.append(stamp(image, shapes[i], size, corner, tint(rng, colours[i])))

        large, small = (colours[0], shapes[0]), (colours[1], shapes[1])
        absent = pick(rng, [name for name in COLOUR_NAMES if name not in colours], 2)
        questions = (
            # Pairs of one yes and one no.
            (f"Is there anything {pick(rng, colours)}?", "yes"),
            (f"Is there anything {absent[0]}?", "no"),
            (f"Is the large object {large[0]}?", "yes"),
            (f"Is the large object {pick(rng, [small[0], absent[1]])}?", "no"),
            (f"Is there a {large[1]}?", "yes"),
            (f"Is there a {pick(rng, [name for name in SHAPES if name not in shapes])}?", "no"),
            # Questions answered by a word: without them the model does not learn the yes/no
            # questions (docs/archive/log.md).
            ("What colour is the large object?", large[0]),
            ("What shape is the large object?", large[1]),
            (f"What colour is the {small[1]}?", small[0]),
            (f"What shape is the {small[0]} object?", small[1]),
        )
        labels = {
            "colour": labelled(areas, colours, COLOUR_NAMES),
            "shape": labelled(areas, shapes, SHAPES),
        }
        return Scene(f"{self.name}/{split}/{index}", questions, image, labels=labels)
