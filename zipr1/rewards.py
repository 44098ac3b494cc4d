"""The two parts of the paper's reward, kept apart: was the answer right, and how few tokens did it take."""

import importlib
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from zipr1.graders import grade
from zipr1.tasks import ALL_TASKS
from zipr1.tasks.base import Example


@dataclass
class Reward:
    """accuracy (B, G): 1 for a right answer, else 0 (r_per), or a grade; efficiency (B, G): 1 - token ratio (r_eff).

    unparsable (B, G): the grader found nothing to read, which counts as wrong.
    """

    accuracy: torch.Tensor
    efficiency: torch.Tensor
    unparsable: torch.Tensor

    def total(self, efficiency_weight: float, gate: torch.Tensor) -> torch.Tensor:
        """(B, G) r = r_per + weight * gate * r_eff; the paper's has weight 1 and no gate."""
        return self.accuracy + efficiency_weight * gate * self.efficiency


def reward(
    examples: list[Example],
    completions: list[str],
    token_ratio: torch.Tensor,
    graded: bool = False,
    function: Callable | None = None,
) -> Reward:
    """completions (B * G), those of one question next to each other; token_ratio (B * G,).

    Each row by its own problem type or task; `graded` grades instead of right or wrong; or by a user's `function`, as it is.
    """
    group = len(completions) // len(examples)
    pairs = [(examples[row // group], completion) for row, completion in enumerate(completions)]
    grades = [None if function else accuracy(*pair, graded) for pair in pairs]
    unparsable = [not function and found is None for found in grades]
    found = from_function(function, pairs) if function else [found or 0.0 for found in grades]
    shape = (len(examples), group)
    efficiency = 1 - token_ratio.float().cpu()
    return Reward(*(part.view(shape) for part in (torch.tensor(found), efficiency, torch.tensor(unparsable))))


def accuracy(example: Example, completion: str, graded: bool = False) -> float | None:
    """By the problem type of a data set's row, None where the grader finds nothing to read; of an embedded task's question, 1.0
    where the task calls it right."""
    if example.problem_type:
        return grade(example, completion, graded)
    return float(ALL_TASKS[example.task].right(completion, example.answer))


def from_function(function: Callable, pairs: list[tuple[Example, str]]) -> list[float]:
    """What TRL's `f(completions, **columns) -> list[float]` returns: prompts, answer, problem_type and the rows' own columns.

    A row without a column that others have gives None. Raises ValueError unless there is one finite number a completion.
    """
    examples = [example for example, _ in pairs]
    names = {name: None for example in examples for name in example.columns}
    columns = {name: [example.columns.get(name) for example in examples] for name in names}
    columns["prompts"] = [list(example.messages) or example.question for example in examples]
    columns["answer"] = [example.answer for example in examples]
    columns["problem_type"] = [example.problem_type for example in examples]
    name = getattr(function, "__name__", type(function).__name__)
    found = function(**(columns | {"completions": [completion for _, completion in pairs]}))
    if not isinstance(found, list | tuple) or len(found) != len(pairs):
        given = f"{len(found)} numbers" if isinstance(found, list | tuple) else repr(found)
        raise ValueError(
            f"reward function {name} returned {given} for {len(pairs)} completions: return a list of as many floats"
        )
    for value, (example, completion) in zip(found, pairs, strict=True):
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(
                f"reward function {name} returned {value!r} for the completion {completion!r} of row {example.id}: "
                "return a finite float"
            )
    return [float(value) for value in found]


@cache
def load_function(path: str | None) -> Callable | None:
    """The function at "package.module:name" or "package.module.name"; modules of the current folder too. Raises ValueError."""
    if path is None:
        return None
    module_name, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module_name or not name:
        raise ValueError(f"reward function {path!r}: expected package.module:name")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):  # not what the module itself imports
            raise ValueError(f"reward function {path!r}: no module {error.name!r} here or among the installed ones") from error
        raise
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"reward function {path!r}: {module_name} has no function {name!r}")
    return function
