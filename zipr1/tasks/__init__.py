"""Embedded tasks: six for the demo, and one task group for each of the paper's thirteen benchmarks.

The names are plain text (names.py). The tasks need numpy and PIL and are imported when first used.
"""

from importlib import import_module

from zipr1.tasks.names import ALL_TASK_NAMES, FAMILY_NAMES, TASK_NAMES, check_tasks

_IN_ALL = (
    *("TASKS", "FAMILIES", "ALL_TASKS", "IMAGE_TASKS", "VIDEO_TASKS"),
    *("examples_of", "text_only_prior"),
)
__all__ = ["ALL_TASK_NAMES", "FAMILY_NAMES", "TASK_NAMES", "check_tasks", *_IN_ALL]


def __getattr__(name: str):
    if name not in _IN_ALL:
        raise AttributeError(f"module 'zipr1.tasks' has no attribute {name!r}")
    return getattr(import_module("zipr1.tasks.all"), name)
