"""The tasks, in the order of the tables of the documentation."""

from .base import Task
from .chart import Chart
from .digits import Digits
from .motion import Motion
from .shapes import Shapes
from .sign import Sign

TASKS: dict[str, Task] = {task.name: task for task in (Shapes(), Digits(), Chart(), Sign(), Motion())}
