"""Task names without the tasks: equal to the real ones, and free of numpy, PIL and torch."""

import subprocess
import sys

import pytest

import zipr1.tasks
from zipr1.common.errors import InputError
from zipr1.tasks.names import ALL_TASK_NAMES, FAMILY_NAMES, TASK_NAMES, check_tasks


def test_the_names_are_those_of_the_tasks():
    assert list(zipr1.tasks.TASKS) == list(TASK_NAMES)
    assert list(zipr1.tasks.FAMILIES) == list(FAMILY_NAMES)
    assert list(zipr1.tasks.ALL_TASKS) == list(ALL_TASK_NAMES)
    for name, task in zipr1.tasks.ALL_TASKS.items():
        assert name == task.name


def test_the_names_are_imported_without_heavy_libraries():
    code = (
        "import sys; from zipr1.tasks import TASK_NAMES, check_tasks; check_tasks(TASK_NAMES); "
        "print(*(m for m in ('numpy', 'PIL', 'torch', 'zipr1.tasks.all') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_exported_name_exists():
    for name in zipr1.tasks.__all__:
        assert getattr(zipr1.tasks, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'GAMES'"):
        zipr1.tasks.GAMES  # noqa: B018


@pytest.mark.parametrize("names", [[], ["golf"], ["shapes", "Shapes"], [""], ["shapes "]])
def test_unknown_names_are_refused(names):
    with pytest.raises(InputError, match=r"(name at least one|expected some) of shapes, digits"):
        check_tasks(names)
