"""Grades of answers by problem type: the five types of Video-R1 (arXiv 2503.21776), and "exact".

A grade lies in [0, 1]. The reward of the paper is binary: 1 for a grade at or above the threshold
of its type in RIGHT_FROM, else 0. A completion that a grader cannot read is unparsable (None), and
no completion is an error.
"""

from collections.abc import Callable
from itertools import product

from zipr1.common.errors import InputError
from zipr1.data.example import Example, final
from zipr1.rewards.choice import letters
from zipr1.rewards.numeric import values
from zipr1.rewards.text import error_rate, folded, rouge

# The grade from which an answer counts as correct where rewards are binary; not given in the paper.
RIGHT_FROM = {
    "exact": 1.0,
    "multiple choice": 1.0,
    "numerical": 1.0,
    "OCR": 0.5,  # ANLS (arXiv 1905.13648): below one half it is another text, not a misreading
    "free-form": 0.5,  # as OCR: half of the words and pairs of words agree; our choice
    "regression": 0.95,  # within 5 %: the relaxed accuracy of ChartQA (arXiv 2203.10244)
}
# The largest relative error that rounding to two decimals makes from 0.1 up: 0.005 / 0.1.
ROUNDING = 0.05


def grade(example: Example, completion: str, graded: bool = False) -> float | None:
    """The grade of a completion in [0, 1]; with graded=False 1.0 if it is correct, else 0.0.

    None if the completion is unparsable. Raises InputError for a problem type without a grader.
    """
    value = score(example, completion)
    if graded or value is None:
        return value
    # 2.09 against 2.2 is off by 5 %, and in floating point by half a billionth more.
    return float(value >= RIGHT_FROM[example.problem_type] - 5e-10)


def score(example: Example, completion: str) -> float | None:
    """The grade in [0, 1], or None for a completion without anything that the grader can read."""
    if example.problem_type not in GRADERS:
        raise InputError(
            f"row {example.id}: problem type {example.problem_type[:80]!r}: "
            f"expected one of {', '.join(GRADERS)}"
        )
    answer = final(completion).rpartition("<answer>")[2].strip()  # also without the end tag
    return GRADERS[example.problem_type](example.answer, answer) if answer else None


def exact(expected: str, answer: str) -> float:
    """1 for the same text, except for Unicode form, letter case, the kind and number of spaces, and
    a final full stop."""
    return float(folded(answer) == folded(expected))


def choice(expected: str, answer: str) -> float | None:
    """1 for the same option, or the same set of options: see `choice.letters`."""
    options = letters(expected), letters(answer)
    return float(options[0] == options[1]) if all(options) else None


def numerical(expected: str, answer: str) -> float | None:
    """1 for numbers that are equal after rounding to two decimals, and within 5 % of the expected.

    Rounding is the rule of Video-R1. From 0.1 up it allows for at most 5 % anyway; below, where it
    would make 0.003 and 0 equal, the relative tolerance decides: 0.08 is 1/12, but 0 is only 0.
    `numeric.values` says which texts state a number; "50%" is 0.5 and 50, as in math-verify.
    """
    pairs = _readings(expected, answer)
    return float(any(_close(a, b) for a, b in pairs)) if pairs else None


def _readings(expected: str, answer: str) -> list[tuple[float, float]]:
    """The numbers of two texts to compare. A percentage against a plain number has two readings;
    against another percentage the same one, or 1% would be 100%."""
    left, right = values(expected), values(answer)
    if len(left) == len(right):
        return list(zip(left, right, strict=True))
    return list(product(left, right))


def _close(expected: float, answer: float) -> bool:
    equal = round(expected, 2) == round(answer, 2)
    if round(expected, 2) == expected or round(answer, 2) == answer:
        # One of them was rounded, perhaps half up, which `round` does not do: 0.125 and 0.13.
        equal = equal or abs(expected - answer) <= 0.005 + 1e-9
    return equal and abs(expected - answer) <= ROUNDING * max(abs(expected), abs(answer))


def regression(expected: str, answer: str) -> float | None:
    """1 - relative error, at least 0; where 0 is expected, 1 for 0 only."""
    errors = [abs(a - b) / abs(a) if a else float(b != 0) for a, b in _readings(expected, answer)]
    return max(0.0, 1 - min(errors)) if errors else None


def ocr(expected: str, answer: str) -> float:
    """1 - word error rate, at least 0; by characters in scripts without spaces between words."""
    return max(0.0, 1 - error_rate(expected, answer))


def free_form(expected: str, answer: str) -> float:
    """The mean F of ROUGE-1, ROUGE-2 and ROUGE-L, in any script; 1 for equal texts."""
    return rouge(expected, answer)


GRADERS: dict[str, Callable[[str, str], float | None]] = {
    "exact": exact,
    "multiple choice": choice,
    "numerical": numerical,
    "OCR": ocr,
    "free-form": free_form,
    "regression": regression,
}
