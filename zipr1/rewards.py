"""The two parts of the paper's reward, kept apart: was the answer right, and how few tokens did it take."""

import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import SupportsFloat

import torch

from zipr1.graders import grade
from zipr1.inputs import conversation
from zipr1.tasks import ALL_TASKS
from zipr1.tasks.base import Example

Functions = tuple[tuple[float, Callable], ...]  # users' own, each behind its weight


@dataclass
class Reward:
    """accuracy (B, G): 1 for a right answer, else 0 (r_per), or a grade; efficiency (B, G): 1 - token ratio (r_eff).

    unparsable (B, G): the grader found nothing to read, or none of the user's functions applies, which counts as wrong.
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
    function: Functions | None = None,
    completion_ids: list[list[int]] | None = None,
) -> Reward:
    """completions (B * G) and their token ids, those of one question next to each other; token_ratio (B * G,).

    Each row by its own problem type or task; `graded` grades instead of right or wrong; or by users' functions, as they are.
    """
    group = len(completions) // len(examples)
    pairs = [(examples[row // group], completion) for row, completion in enumerate(completions)]
    if function:
        found = [None if math.isnan(value) else value for value in from_function(function, pairs, completion_ids)]
    else:
        found = [accuracy(*pair, graded) for pair in pairs]
    unparsable = torch.tensor([value is None for value in found])
    shape, efficiency = (len(examples), group), 1 - token_ratio.float().cpu()
    return Reward(*(part.view(shape) for part in (torch.tensor([value or 0.0 for value in found]), efficiency, unparsable)))


def accuracy(example: Example, completion: str, graded: bool = False) -> float | None:
    """By the problem type of a data set's row, None where the grader finds nothing to read; of an embedded task's question, 1.0
    where the task calls it right."""
    if example.problem_type:
        return grade(example, completion, graded)
    return float(ALL_TASKS[example.task].right(completion, example.answer))


def from_function(
    function: Functions, pairs: list[tuple[Example, str]], completion_ids: list[list[int]] | None = None
) -> list[float]:
    """For each pair the sum of what the functions return, times their weights; NaN where each says None, does not apply.

    They are called as TRL 1.x does: f(prompts=, completions=, completion_ids=, **columns) -> list[float | None], and get
    `answer`, `problem_type` and the rows' own columns; a row without a column that others have gives None. To a chat (see
    `asked`) a completion is a list of one message, [{"role": "assistant", "content": ...}], to a plain prompt a string. There
    are no `trainer_state`, `log_extra` and `log_metric`. Raises ValueError unless there is one finite number or None a
    completion, and RuntimeError, with the function's own error behind it, where it fails.
    """
    examples = [example for example, _ in pairs]
    names = {name: None for example in examples for name in example.columns if name != "prompt"}
    columns = {name: [example.columns.get(name) for example in examples] for name in names}
    own = columns.get("answer", [None] * len(examples))  # a table has the column for all rows if one row has it
    columns["answer"] = [example.answer if given is None else given for given, example in zip(own, examples, strict=True)]
    columns["problem_type"] = [example.problem_type for example in examples]
    columns["prompts"] = [asked(example) for example in examples]
    columns["completions"] = [
        completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
        for prompt, (_, completion) in zip(columns["prompts"], pairs, strict=True)
    ]
    if completion_ids is not None:
        columns["completion_ids"] = completion_ids
    totals = [math.nan] * len(pairs)
    for weight, one in function:
        for place, value in enumerate(returned(one, columns, pairs)):
            if value is not None:
                totals[place] = weight * value + (0.0 if math.isnan(totals[place]) else totals[place])
    return totals


def asked(example: Example) -> str | list[dict]:
    """The prompt as TRL has it: a chat where the row's is one, or has pictures or a clip, which TRL takes in chats alone; else
    a text. Video-R1's rows bring their chats as a column."""
    if "prompt" in example.columns:
        return example.columns["prompt"]
    chat = example.messages or example.pictures or example.frames is not None
    return conversation(example) if chat else example.question


def returned(function: Callable, columns: dict, pairs: list[tuple[Example, str]]) -> list[float | None]:
    """What one function returns. Raises ValueError, which names it, row and value, or RuntimeError where it fails."""
    name = f"{function.__module__}:{getattr(function, '__name__', type(function).__name__)}"
    try:
        found = function(**columns)
    except Exception as error:  # the user's own code, whatever it raises: its traceback is shown
        rows = ", ".join(dict.fromkeys(example.id for example, _ in pairs))
        raise RuntimeError(f"reward function {name} failed on rows {rows}: {error!r}") from error
    if not isinstance(found, Iterable) or len(found := list(found)) != len(pairs):
        given = f"{len(found)} numbers" if isinstance(found, list) else repr(found)
        raise ValueError(
            f"reward function {name} returned {given} for {len(pairs)} completions: return a list of as many floats"
        )
    for value, (example, completion) in zip(found, pairs, strict=True):
        if value is not None and not (isinstance(value, SupportsFloat) and math.isfinite(value)):
            raise ValueError(
                f"reward function {name} returned {value!r} for the completion {completion!r} of row {example.id}: "
                "return a finite float, or None where it does not apply"
            )
    return [None if value is None else float(value) for value in found]


@cache
def load_function(paths: str | None) -> Functions | None:
    """The functions at "package.module:name" or "package.module.name", with commas between several and, if they have one, their
    weight before them: "mine:right,0.2*mine:short". Modules of the current folder too. Raises ValueError."""
    return None if paths is None else tuple(weighted(path.strip()) for path in paths.split(","))


def weighted(text: str) -> tuple[float, Callable]:
    """ "0.2*package.module:name" as 0.2 and the function."""
    number, star, path = text.rpartition("*")
    try:
        weight = float(number) if star else 1.0
    except ValueError as error:
        raise ValueError(f"reward function {text!r}: {number!r} is no weight; expected 0.2*package.module:name") from error
    return weight, imported(path.strip())


def imported(path: str) -> Callable:
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
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"reward function {path!r}: is async; give a plain function")
    return function
