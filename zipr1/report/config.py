"""The settings of `zipr1 report`."""

from dataclasses import dataclass

from zipr1.common.checks import check_positive


@dataclass
class ReportConfig:
    """`zipr1 report`: one self-contained page of what eval, demo, train and bench have written."""

    runs: list[str]
    """Folders that eval, demo, train and bench have written."""
    output: str = "report.html"
    """The page to write."""
    per_task: int = 40
    """Questions to browse; those on which Full and a sparse method disagree come first."""

    def __post_init__(self):
        check_positive(self, "per_task")
