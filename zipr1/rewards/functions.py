"""Users' own reward functions, called as TRL 1.x calls them."""

import importlib
import inspect
import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean, pstdev
from typing import Any, SupportsFloat

from accelerate.utils import gather_object

from zipr1.data.example import Example
from zipr1.data.processor import conversation

Functions = tuple[tuple[float, Callable], ...]  # each behind its weight


@dataclass
class RewardLog:
    """What the functions are told beside the rows, how far the training is, and what they say of some completions: their
    rewards (None: does not apply), by name and without weights, columns of the table of samples, and metrics."""

    step: int
    max_steps: int
    completions: int
    rewards: dict[str, list[float | None]] = field(default_factory=dict)
    columns: dict[str, list] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def arguments(self) -> dict[str, Any]:
        """TRL's, of the same names."""
        from transformers import TrainerState  # with all of its Trainer: seconds

        state = TrainerState(global_step=self.step, max_steps=self.max_steps)
        return {"trainer_state": state, "log_extra": self.log_extra, "log_metric": self.log_metric}

    def log_extra(self, column: str, values: Iterable) -> None:
        """Raises ValueError unless there is a value a completion."""
        self.columns[column] = list(values)
        if len(self.columns[column]) != self.completions:
            raise ValueError(
                f"log_extra: {column}: {len(self.columns[column])} values for {self.completions} completions"
            )

    def log_metric(self, name: str, value: float) -> None:
        self.metrics[name].append(float(value))

    def of(self, place: int) -> dict[str, Any]:
        """What was said of one completion, for a file of JSON."""
        said = {name: values[place] for name, values in (self.rewards | self.columns).items()}
        return {
            name: one if isinstance(one, str | int | float | None) else str(one)
            for name, one in said.items()
        }


def summary(logs: Iterable[RewardLog]) -> dict[str, float]:
    """Over all processes, which must all call this: mean and standard deviation of what each function returned, where it
    applies, and the mean of each metric."""
    rewards, metrics = defaultdict(list), defaultdict(list)
    for returned, logged in gather_object([(log.rewards, dict(log.metrics)) for log in logs]):
        for name, values in returned.items():
            rewards[name] += [value for value in values if value is not None]
        for name, values in logged.items():
            metrics[name] += values
    found = {name: fmean(values) for name, values in metrics.items()}
    for name, values in rewards.items():
        if values:
            found |= {f"rewards/{name}/mean": fmean(values), f"rewards/{name}/std": pstdev(values)}
    return found


def from_function(
    function: Functions,
    pairs: list[tuple[Example, str]],
    completion_ids: list[list[int]] | None = None,
    log: RewardLog | None = None,
) -> list[float]:
    """For each pair the sum of what the functions return, times their weights; NaN where each says None, does not apply.

    They are called as TRL 1.x does: f(prompts=, completions=, completion_ids=, trainer_state=, log_extra=, log_metric=,
    **columns) -> list[float | None], and get `answer`, `problem_type` and the rows' own columns; a row without a column that
    others have gives None. To a chat (see `asked`) a completion is a list of one message, [{"role": "assistant", "content":
    ...}], to a plain prompt a string. What they say is in `log` afterwards. Raises ValueError unless there is one finite number
    or None a completion, and RuntimeError, with the function's own error behind it, where it fails.
    """
    log = log or RewardLog(0, 0, len(pairs))
    examples = [example for example, _ in pairs]
    names = {name: None for example in examples for name in example.columns if name != "prompt"}
    columns = {name: [example.columns.get(name) for example in examples] for name in names}
    own = columns.get(
        "answer", [None] * len(examples)
    )  # a table has the column for all rows if one row has it
    columns["answer"] = [
        example.answer if given is None else given
        for given, example in zip(own, examples, strict=True)
    ]
    columns["problem_type"] = [example.problem_type for example in examples]
    columns["prompts"] = [asked(example) for example in examples]
    columns["completions"] = [
        completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
        for prompt, (_, completion) in zip(columns["prompts"], pairs, strict=True)
    ]
    if completion_ids is not None:
        columns["completion_ids"] = completion_ids
    columns |= log.arguments()
    totals = [math.nan] * len(pairs)
    for name, (weight, one) in zip(names_of(function), function, strict=True):
        log.rewards[name] = returned(one, columns, pairs)
        for place, value in enumerate(log.rewards[name]):
            if value is not None:
                totals[place] = weight * value + (
                    0.0 if math.isnan(totals[place]) else totals[place]
                )
    return totals


def names_of(functions: Functions) -> list[str]:
    """As TRL has them, and with its module where two have the same."""
    names = [getattr(one, "__name__", type(one).__name__) for _, one in functions]
    return [
        f"{one.__module__}.{name}" if names.count(name) > 1 else name
        for name, (_, one) in zip(names, functions, strict=True)
    ]


def asked(example: Example) -> str | list[dict]:
    """The prompt as TRL has it: a chat where the row's is one, or has pictures or a clip, which TRL takes in chats alone; else
    a text. Video-R1's rows bring their chats as a column."""
    if "prompt" in example.columns:
        return example.columns["prompt"]
    chat = example.messages or example.pictures or example.frames is not None
    return conversation(example) if chat else example.question


def returned(
    function: Callable, columns: dict, pairs: list[tuple[Example, str]]
) -> list[float | None]:
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
        raise ValueError(
            f"reward function {text!r}: {number!r} is no weight; expected 0.2*package.module:name"
        ) from error
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
        if error.name and f"{module_name}.".startswith(
            f"{error.name}."
        ):  # not what the module itself imports
            raise ValueError(
                f"reward function {path!r}: no module {error.name!r} here or among the installed ones"
            ) from error
        raise
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"reward function {path!r}: {module_name} has no function {name!r}")
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"reward function {path!r}: is async; give a plain function")
    return function


def without_lost(function: Callable, lost: list[int]) -> Callable:
    """A user's reward function that gives None where it would give no finite number, and adds that place to `lost`: such a
    reward costs a step, as a loss that is not finite does, and not at once the run."""

    def finite(**columns):
        found = function(**columns)
        if not isinstance(found, Iterable):
            return found
        found = list(found)
        gone = [
            i
            for i, value in enumerate(found)
            if isinstance(value, SupportsFloat) and not math.isfinite(value)
        ]
        lost.extend(gone)
        return [None if i in gone else value for i, value in enumerate(found)]

    finite.__name__ = getattr(
        function, "__name__", type(function).__name__
    )  # for messages, as the module
    finite.__module__ = function.__module__
    return finite
