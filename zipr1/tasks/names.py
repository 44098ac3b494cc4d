"""The names of the embedded tasks, for settings and the command line; imports nothing heavy."""

from collections.abc import Sequence

from zipr1.common.errors import InputError

TASK_NAMES = ("shapes", "digits", "chart", "sign", "motion", "ego")
"""The six tasks of the demo, in the order of its tables."""

FAMILY_NAMES = (
    *("perceive", "choose", "relate", "chart", "sign", "digits", "reason"),
    *("short", "needle", "lecture", "objects", "ego", "tempo"),
)
"""The thirteen task groups of the suite tiny13, images before videos, in the order of the paper."""

ALL_TASK_NAMES = tuple(dict.fromkeys(TASK_NAMES + FAMILY_NAMES))


def check_tasks(names: Sequence[str]) -> None:
    """Raises InputError unless `names` holds at least one name and only names of embedded tasks."""
    known = ", ".join(ALL_TASK_NAMES)
    if not names:
        raise InputError(f"tasks: name at least one of {known}")
    for name in names:
        if name not in ALL_TASK_NAMES:
            raise InputError(f"task {name!r}: expected some of {known}")
