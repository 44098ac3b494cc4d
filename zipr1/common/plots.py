"""The style of all plots."""

import re
from itertools import cycle

import numpy as np

# One colour per method (`zipr1.evaluation.methods`), the same in all figures; "exact" and "paper"
# are presets of ZipR1.
COLOURS = {
    "full": "black",
    "zipvl": "tab:gray",
    "zipr1": "tab:blue",
    "exact": "tab:blue",
    "paper": "tab:orange",
    "topk": "tab:green",
    "fastv": "tab:red",
    "downsample": "tab:purple",
    "downsampled": "tab:purple",  # as the demo calls it
    "recent": "tab:brown",
    "random": "tab:pink",
    "fewer_frames": "tab:olive",
}
OTHER = ("tab:cyan", "gold", "magenta", "lime", "teal", "salmon")  # for lines of no known method


def method_of(name: str) -> str:
    """The method of a line such as "topk", "Fewer frames", "ZipVL (before)" or "ZipR1 (paper)"."""
    outside, inside = re.fullmatch(r"(.*?)(?: \((.*)\))?", name, re.DOTALL).groups()
    return inside if inside in ("exact", "paper") else outside.lower().replace(" ", "_")


def colours_of(lines: dict[str, str]) -> dict[str, str]:
    """The colour of each line from its method; lines of no known method, and a second line of a
    method, get the other colours in their order."""
    found: dict[str, str] = {}
    others = cycle(OTHER)
    for name, method in lines.items():
        colour = COLOURS.get(method_of(method))
        found[name] = next(others) if colour in (None, *found.values()) else colour
    return found


def new_plot(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7, 4.5)):
    """(figure, axes) without a display. matplotlib belongs to an extra, so it is imported here."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns)
    for one in np.atleast_1d(axes).flat:
        one.grid(alpha=0.3)
    return figure, axes
