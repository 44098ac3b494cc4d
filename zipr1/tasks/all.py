"""The embedded tasks by name: six for the demo, and thirteen task groups in the order of the paper."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from zipr1.data.example import Example
from zipr1.tasks.base import Task

from .chart import Chart
from .choose import Choose
from .digits import Digits
from .ego import Ego
from .lecture import Lecture
from .motion import Motion
from .needle import Needle
from .objects import Objects
from .perceive import Perceive
from .reason import Reason
from .relate import Relate
from .shapes import Shapes
from .short import Short
from .sign import Sign
from .tempo import Tempo

TASKS: dict[str, Task] = {
    task.name: task for task in (Shapes(), Digits(), Chart(), Sign(), Motion(), Ego())
}

IMAGE_TASKS = (Perceive(), Choose(), Relate(), Chart(), Sign(), Digits(), Reason())
VIDEO_TASKS = (Short(), Needle(), Lecture(), Objects(), Ego(), Tempo())
# One task group for each benchmark of the paper (Task.mirrors).
FAMILIES: dict[str, Task] = {task.name: task for task in IMAGE_TASKS + VIDEO_TASKS}

ALL_TASKS = TASKS | FAMILIES


def text_only_prior(task: Task, n: int = 200, split: str = "test") -> float:
    """The accuracy that needs no image: each question of `split` gets its most frequent train answer.

    Counts every question of `n` train scenes and scores `n` questions of `split`. A question that
    no train scene asked gets the most frequent answer of all.
    """
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index in range(n):
        for question, answer in task.scene("train", index).questions:
            by_question[question][answer] += 1
    overall = sum(by_question.values(), Counter())
    correct = 0
    for index in range(n):
        example = task.example(split, index)
        guess = by_question.get(example.question, overall).most_common(1)[0][0]
        correct += guess == example.answer
    return correct / n


def examples_of(tasks: Iterable[str], split: str, count: int) -> list[Example]:
    """The first `count` questions of each task's split."""
    return [ALL_TASKS[name].example(split, i) for name in tasks for i in range(count)]
