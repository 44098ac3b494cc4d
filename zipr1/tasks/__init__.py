"""The tasks: six of the demo, and the thirteen families of the suite, in the order of the paper's tables."""

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

PICTURES = (Perceive(), Choose(), Relate(), Chart(), Sign(), Digits(), Reason())
CLIPS = (Short(), Needle(), Lecture(), Objects(), Ego(), Tempo())
FAMILIES: dict[str, Task] = {
    task.name: task for task in PICTURES + CLIPS
}  # Task.mirrors: the benchmark of each

ALL_TASKS = TASKS | FAMILIES


def text_only_prior(task: Task, n: int = 200) -> float:
    """The accuracy that needs no picture: each test question gets its most frequent answer among train scenes.

    Counts every question of `n` train scenes, scores `n` test questions; a question that
    train never asked gets the most frequent answer of all.
    """
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index in range(n):
        for question, answer in task.scene("train", index).questions:
            by_question[question][answer] += 1
    overall = sum(by_question.values(), Counter())
    right = 0
    for index in range(n):
        example = task.example("test", index)
        guess = by_question.get(example.question, overall).most_common(1)[0][0]
        right += task.right(guess, example.answer)
    return right / n


def examples_of(tasks: Iterable[str], split: str, count: int) -> list[Example]:
    """The first `count` questions of each task's split."""
    return [ALL_TASKS[name].example(split, i) for name in tasks for i in range(count)]


def check_tasks(names: list[str]) -> None:
    if not names:
        raise ValueError(f"tasks: name at least one of {', '.join(ALL_TASKS)}")
    for name in names:
        if name not in ALL_TASKS:
            raise ValueError(f"task {name!r}: expected some of {', '.join(ALL_TASKS)}")
