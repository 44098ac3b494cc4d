"""Users' own reward functions, called as TRL 1.x calls them."""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean, pstdev
from typing import Any, SupportsFloat

import torch
from accelerate.utils import gather_object

from zipr1.common.errors import InputError, RunError
from zipr1.common.imports import imported
from zipr1.data.example import Example
from zipr1.data.processor import conversation

Functions = tuple[tuple[float, Callable], ...]  # (weight, function)
LARGEST = torch.finfo(torch.float32).max


@dataclass
class RewardLog:
    """The progress of training that functions receive, and what they return and log.

    rewards: by function, without weights; None where a function does not apply to a completion.
    columns: logged by log_extra, one value per completion, for the table of samples.
    metrics: logged by log_metric.
    """

    step: int
    max_steps: int
    completions: int
    rewards: dict[str, list[float | None]] = field(default_factory=dict)
    columns: dict[str, list] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of TRL with the same names."""
        from transformers import TrainerState  # imports all of Trainer, which takes seconds

        state = TrainerState(global_step=self.step, max_steps=self.max_steps)
        return {"trainer_state": state, "log_extra": self.log_extra, "log_metric": self.log_metric}

    def log_extra(self, column: str, values: Iterable) -> None:
        """Adds a column. Raises InputError unless it has one value per completion."""
        self.columns[column] = list(values)
        if len(self.columns[column]) != self.completions:
            raise InputError(
                f"log_extra: {column}: {len(self.columns[column])} values "
                f"for {self.completions} completions"
            )

    def log_metric(self, name: str, value: float) -> None:
        self.metrics[name].append(float(value))

    def of(self, place: int) -> dict[str, Any]:
        """The rewards and columns of one completion, as JSON values."""
        columns = self.rewards | self.columns
        values = {name: column[place] for name, column in columns.items()}
        return {
            name: value if isinstance(value, str | int | float | None) else str(value)
            for name, value in values.items()
        }


def summary(logs: Iterable[RewardLog]) -> dict[str, float]:
    """Metrics over all processes, each of which must call this.

    Mean and standard deviation of the rewards of each function, where it applies, and the mean of
    each logged metric.
    """
    rewards, metrics = defaultdict(list), defaultdict(list)
    for returned, logged in gather_object([(log.rewards, dict(log.metrics)) for log in logs]):
        for name, values in returned.items():
            rewards[name] += [value for value in values if value is not None]
        for name, values in logged.items():
            metrics[name] += values
    # Not fmean, which raises for infinities of both signs.
    result = {name: sum(values) / len(values) for name, values in metrics.items()}
    for name, values in rewards.items():
        if values:
            result |= {f"rewards/{name}/mean": fmean(values), f"rewards/{name}/std": pstdev(values)}
    return result


def from_function(
    function: Functions,
    pairs: list[tuple[Example, str]],
    completion_ids: list[list[int]] | None = None,
    log: RewardLog | None = None,
) -> list[float]:
    """For each (question, completion) the weighted sum of the rewards; NaN where none applies.

    The functions are called as in TRL 1.x: f(prompts=, completions=, completion_ids=,
    trainer_state=, log_extra=, log_metric=, **columns) -> list[float | None]. `log` holds the
    results afterwards. Raises InputError unless a function returns one finite number or None per
    completion, and RunError, chained to the function's own exception, where it fails.
    """
    log = log or RewardLog(0, 0, len(pairs))
    columns = columns_of(pairs) | log.arguments()
    if completion_ids is not None:
        columns["completion_ids"] = completion_ids
    totals = [math.nan] * len(pairs)
    for name, (weight, one) in zip(names_of(function), function, strict=True):
        log.rewards[name] = call(one, columns, pairs)
        for place, value in enumerate(log.rewards[name]):
            if value is not None:
                total = 0.0 if math.isnan(totals[place]) else totals[place]
                totals[place] = weight * value + total
    for total, (example, completion) in zip(totals, pairs, strict=True):
        if not (math.isnan(total) or is_finite(total)):
            raise InputError(
                f"reward functions: the weighted sum is {total} for the completion "
                f"{completion[:200]!r} of row {example.id}: it must be finite in float32"
            )
    return totals


def is_finite(value: SupportsFloat) -> bool:
    """Also in float32, the type of rewards in the objective."""
    return abs(float(value)) <= LARGEST


def columns_of(pairs: list[tuple[Example, str]]) -> dict[str, list]:
    """The arguments of a function, by name: the columns of the rows, None where a row lacks one.

    Further prompts, completions, answer and problem_type. A completion is a list of one message,
    [{"role": "assistant", "content": ...}], where the prompt is a chat, else a string.
    """
    examples = [example for example, _ in pairs]
    names = dict.fromkeys(name for example in examples for name in example.columns)
    names.pop("prompt", None)
    columns = {name: [example.columns.get(name) for example in examples] for name in names}
    # A table has the column `answer` in all rows if it has it in one: None elsewhere.
    answers = columns.get("answer", [None] * len(examples))
    columns["answer"] = [
        example.answer if answer is None else answer
        for answer, example in zip(answers, examples, strict=True)
    ]
    columns["problem_type"] = [example.problem_type for example in examples]
    columns["prompts"] = [prompt_of(example) for example in examples]
    columns["completions"] = [
        completion if isinstance(prompt, str) else [{"role": "assistant", "content": completion}]
        for prompt, (_, completion) in zip(columns["prompts"], pairs, strict=True)
    ]
    return columns


def names_of(functions: Functions) -> list[str]:
    """The names of the functions, as in TRL; with its module where two have the same name."""
    names = [getattr(one, "__name__", type(one).__name__) for _, one in functions]
    return [
        f"{one.__module__}.{name}" if names.count(name) > 1 else name
        for name, (_, one) in zip(names, functions, strict=True)
    ]


def prompt_of(example: Example) -> str | list[dict]:
    """The prompt as in TRL: a chat where the row has one, or images or a video, else a text.

    TRL accepts images in chats only. The rows of Video-R1 have their chats as a column.
    """
    if "prompt" in example.columns:
        return example.columns["prompt"]
    chat = example.messages or example.all_images or example.frames is not None
    return conversation(example) if chat else example.question


def call(function: Callable, columns: dict, pairs: list[tuple[Example, str]]) -> list[float | None]:
    """The rewards that one function returns. Raises as `from_function` does."""
    name = f"{function.__module__}:{getattr(function, '__name__', type(function).__name__)}"
    try:
        rewards = function(**columns)
    except Exception as error:  # the user's code may raise anything; its traceback is chained
        rows = ", ".join(dict.fromkeys(example.id for example, _ in pairs))
        raise RunError(f"reward function {name} failed on rows {rows[:300]}: {error!r}") from error
    if not isinstance(rewards, Iterable) or len(rewards := list(rewards)) != len(pairs):
        given = f"{len(rewards)} numbers" if isinstance(rewards, list) else repr(rewards)[:80]
        raise InputError(
            f"reward function {name} returned {given} for {len(pairs)} completions: "
            "return a list with one float per completion"
        )
    for value, (example, completion) in zip(rewards, pairs, strict=True):
        if value is not None and not (isinstance(value, SupportsFloat) and is_finite(value)):
            raise InputError(
                f"reward function {name} returned {repr(value)[:80]} for the completion "
                f"{completion[:200]!r} of row {example.id}: return a finite float, or None where "
                "the function does not apply"
            )
    return [None if value is None else float(value) for value in rewards]


@cache
def load_function(paths: str | None) -> Functions | None:
    """The functions at "package.module:name" or "file.py:name", several with commas.

    A weight may precede each: "mine:correct,0.2*mine:short". Modules in the current folder are
    found too. Raises InputError.
    """
    return None if paths is None else tuple(weighted(path.strip()) for path in paths.split(","))


def weighted(text: str) -> tuple[float, Callable]:
    """Weight and function of "0.2*package.module:name"; the weight is 1 if there is none."""
    number, star, path = text.rpartition("*")
    try:
        weight = float(number) if star else 1.0
    except ValueError as error:
        raise InputError(
            f"reward function {text!r}: {number!r} is not a weight; "
            "expected 0.2*package.module:name"
        ) from error
    if not math.isfinite(weight):
        raise InputError(f"reward function {text!r}: the weight must be finite")
    return weight, reward_function(path.strip())


def reward_function(path: str) -> Callable:
    """The function at "package.module:name" or "file.py:name". Raises InputError."""
    function = imported(path, "reward function")
    if not callable(function):
        raise InputError(f"reward function {path!r}: is no function")
    if inspect.iscoroutinefunction(function):
        raise InputError(f"reward function {path!r}: is async; pass a plain function")
    return function


def without_non_finite(function: Callable, places: list[int]) -> Callable:
    """The function with None for every number that is not finite; their places go to `places`.

    Such a reward skips the step, as a loss that is not finite does, instead of ending the run.
    """

    def finite(**columns):
        rewards = function(**columns)
        if not isinstance(rewards, Iterable):
            return rewards
        rewards = list(rewards)
        bad = [
            i
            for i, value in enumerate(rewards)
            if isinstance(value, SupportsFloat) and not is_finite(value)
        ]
        places.extend(bad)
        return [None if i in bad else value for i, value in enumerate(rewards)]

    # Name and module appear in messages.
    finite.__name__ = getattr(function, "__name__", type(function).__name__)
    finite.__module__ = function.__module__
    return finite
