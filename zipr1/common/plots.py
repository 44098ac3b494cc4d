"""The style of all plots."""

import numpy as np


def new_plot(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7, 4.5)):
    """(figure, axes) without a display. matplotlib belongs to an extra, so it is imported here."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns)
    for one in np.atleast_1d(axes).flat:
        one.grid(alpha=0.3)
    return figure, axes
