"""Tables in markdown and LaTeX."""


def markdown_table(head: list[str], body: list[list[str]]) -> str:
    """A markdown table with a line per row of `body`."""
    first, *rest = (f"| {' | '.join(line)} |" for line in (head, *body))
    return "\n".join([first, "|" + "---|" * len(head), *rest]) + "\n"


def tabular(title: str, head: list[str], body: list[list[str]]) -> str:
    """A LaTeX table in the style of the package booktabs; the first column is left-aligned."""
    lines = [" & ".join(cells) + r" \\" for cells in (head, *body)]
    start = [
        f"% {title}",
        r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}",
        r"\toprule",
        lines[0],
        r"\midrule",
    ]
    return "\n".join([*start, *lines[1:], r"\bottomrule", r"\end{tabular}"])
