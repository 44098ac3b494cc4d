"""A method has the same colour in every figure."""

import io

import matplotlib
import pytest
from matplotlib.colors import to_hex

from zipr1.common.plots import COLOURS, colours_of
from zipr1.evaluation.config import METHODS
from zipr1.evaluation.curves import plot_curves
from zipr1.evaluation.rows import TableRow


def row(method: str, p: float | None, ratio: float) -> TableRow:
    numbers = {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95}
    return TableRow(
        method=method, p=p, token_ratio=ratio, **numbers, per_task={"shapes": 0.9}, questions=9
    )


def drawn(lines: dict[str, str]) -> str:
    """The SVG of curves, two points a line; lines: name -> method of its rows."""
    file = io.StringIO()
    with matplotlib.rc_context({"savefig.format": "svg"}):
        curves = {
            name: [row(method, 0.9, 0.3), row(method, 0.95, 0.5)] for name, method in lines.items()
        }
        plot_curves(curves, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("line", "rows", "method"),
    [
        ("ZipVL (before)", "ZipVL", "zipvl"),  # the demo's
        ("ZipR1 (paper)", "ZipVL", "paper"),
        ("ZipR1 (exact)", "ZipVL", "exact"),
        ("Downsampled", "Downsampled", "downsample"),
        ("Fewer frames", "Fewer frames", "fewer_frames"),  # of the suite
        ("TopK", "TopK", "topk"),
        ("ZipR1", "ZipR1", "exact"),
        ("runs/train/final", "zipvl", "zipvl"),  # of `zipr1 eval MODEL --curve`
    ],
    ids=lambda value: value.replace(" ", "_").replace("/", "_"),
)
def test_a_line_has_the_colour_of_its_method_whatever_else_is_drawn(line, rows, method):
    own = to_hex(COLOURS[method])
    others = {"Recent": "Recent", "Random": "Random"}
    for lines in ({line: rows}, others | {line: rows}, {line: rows} | others):
        assert f"stroke: {own}" in drawn(lines)
    assert f"stroke: {own}" not in drawn(others)


def test_every_method_has_a_colour_and_no_two_the_same():
    found = colours_of({method: method for method in (*METHODS, "exact", "paper")})
    assert found == {method: COLOURS[method] for method in found}
    assert len(set(found.values())) == len(found)


def test_lines_of_no_known_method_get_colours_of_their_own():
    lines = {name: name for name in ("mine.py:A", "zipvl", "mine.py:B", "ZipR1 (a)", "ZipR1 (b)")}
    found = colours_of(lines)
    assert found == colours_of(lines) and len(set(found.values())) == 5
    assert found["zipvl"] == COLOURS["zipvl"] and found["ZipR1 (a)"] == COLOURS["zipr1"]
