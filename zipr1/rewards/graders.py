"""How good an answer is, by the type of its problem: the five types of Video-R1 (arXiv 2503.21776), and "exact".

A grade lies in [0, 1]. The reward of the paper is binary: the grade at or above the threshold in RIGHT_FROM, or not.
"""

import math
import re
from collections.abc import Callable
from functools import cache

from zipr1.data.example import Example, final

# From which grade an answer counts as right, where rewards are binary. The paper does not say.
RIGHT_FROM = {
    "exact": 1.0,
    "multiple choice": 1.0,
    "numerical": 1.0,
    "OCR": 0.5,  # ANLS (arXiv 1905.13648) takes a text of which less than half is right for another text, not a misreading
    "free-form": 0.5,  # as OCR: half of the words and pairs of words agree; our choice
    "regression": 0.95,  # within 5 %: the relaxed accuracy of ChartQA (arXiv 2203.10244)
}


def grade(example: Example, completion: str, graded: bool = False) -> float | None:
    """The grade of a completion in [0, 1], or with graded=False 1.0 for a right one, else 0.0; None if it cannot be read.

    Raises ValueError for a problem type that has no grader.
    """
    value = score(example, completion)
    if graded or value is None:
        return value
    # Half a billionth is for 2.09 against 2.2: 5 % off, but for the last bit.
    return float(value >= RIGHT_FROM[example.problem_type] - 5e-10)


def score(example: Example, completion: str) -> float | None:
    """The grade in [0, 1], or None where the completion holds nothing that the grader can read."""
    if example.problem_type not in GRADERS:
        raise ValueError(
            f"row {example.id}: problem type {example.problem_type!r}: expected one of {', '.join(GRADERS)}"
        )
    said = final(completion)
    return GRADERS[example.problem_type](example.answer, said) if said else None


def exact(expected: str, said: str) -> float:
    """The same words, case and a final full stop aside, as the embedded tasks have it, whichever of the two has it."""
    expected, said = (text.strip().rstrip(".").casefold() for text in (expected, said))
    return float(said == expected)


def choice(expected: str, said: str) -> float | None:
    """The same letter: "B", "B.", "(B)", "B) text", "B. text"; the text of an option alone is none."""
    letters = [re.match(r"\(?([A-Z])(?:[).:]|$)", text.strip()) for text in (expected, said)]
    return float(letters[0][1] == letters[1][1]) if all(letters) else None


def numerical(expected: str, said: str) -> float | None:
    """Equal after rounding to two decimals; "50%" is 0.5 and 50, as math-verify has it."""
    pairs = [(a, b) for a in values(expected) for b in values(said)]
    return float(any(round(a, 2) == round(b, 2) for a, b in pairs)) if pairs else None


def regression(expected: str, said: str) -> float | None:
    """1 - relative error, at least 0; if 0 is expected, only 0 will do."""
    errors = [
        abs(a - b) / abs(a) if a else float(b != 0) for a in values(expected) for b in values(said)
    ]
    return max(0.0, 1 - min(errors)) if errors else None


def ocr(expected: str, said: str) -> float:
    """1 - word error rate, at least 0; a line break parts words as a space does."""
    expected, said = (" ".join(text.split()) for text in (expected, said))
    return max(0.0, 1 - library("jiwer").wer(expected, said))


def free_form(expected: str, said: str) -> float:
    """The mean F of ROUGE-1, ROUGE-2 and ROUGE-L, stemmed; without ROUGE-2, which counts pairs, where one word is expected."""
    tokens = library("rouge_score.tokenize").tokenize(expected, None)
    kinds = ["rouge1", "rougeL", *(["rouge2"] if len(tokens) > 1 else [])]
    found = (
        library("rouge_score.rouge_scorer")
        .RougeScorer(kinds, use_stemmer=True)
        .score(expected, said)
    )
    return sum(kind.fmeasure for kind in found.values()) / len(kinds)


def values(text: str) -> tuple[float, ...]:
    """The number a text gives, in both readings of a percentage; () if there is none, or two: a range, a ratio, a time."""
    text = plain(text)
    if re.search(r"\d\s*[-:]\s*\d", text):
        return ()
    try:
        number = float(re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text))  # of thousands
    except ValueError:
        number = math_value(text)
    if number is None or not math.isfinite(number):
        return ()
    return (number, 100 * number) if re.search("%|per ?cent", text) else (number,)


def plain(text: str) -> str:
    """Signs, brackets, powers of ten, mixed fractions and roots as math-verify reads them."""
    text = re.sub("[\N{MINUS SIGN}\N{EN DASH}]", "-", text).strip().rstrip(".")
    text = re.sub(r"^\(([^()]*)\)$", r"\1", text)
    text = re.sub(r"(?<![\w)])-\s*\$?\s*(?=[\d.])", "-", text)
    if "$" not in text:  # there it reads them all
        text = re.sub(
            r"(?<=\d)\s*(?:\N{MULTIPLICATION SIGN}|\\times|\\cdot|[x*])\s*10\s*\^\s*\{?(-?\d+)\}?",
            r" * 10^\1",
            text,
        )
        text = re.sub(r"(?<=\d)[eE]([+-]?\d+)(?=\s)", r" * 10^\1", text)  # before a unit
    text = re.sub(r"(?<![\d./])(\d+)\s*\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1 \2/\3", text)
    text = re.sub(
        r"(?<![\d./])(\d+) (\d+)/(\d+)(?![\d/])",
        lambda m: f"{int(m[1]) * int(m[3]) + int(m[2])}/{m[3]}",
        text,
    )
    return re.sub(r"^(-?\d*)\s*\N{SQUARE ROOT}\s*\(?(\d+)\)?$", r"$\1\\sqrt{\2}$", text)


def math_value(text: str) -> float | None:
    """The number that math-verify finds in a text: fractions, roots, LaTeX, units, words around it."""
    sympy = library("sympy")
    found = library("math_verify").parse(text, fallback_mode="no_fallback")
    if not found or not found[0].is_number:
        return None
    # 20000000! and 9^9^9^9 would be computed, for ever.
    quick = (
        sympy.Number,
        sympy.NumberSymbol,
        sympy.Add,
        sympy.Mul,
        sympy.Pow,
        sympy.Abs,
        sympy.log,
        sympy.UnevaluatedExpr,
    )
    if not all(isinstance(part, quick) for part in sympy.preorder_traversal(found[0])):
        return None
    for power in found[0].atoms(sympy.Pow):
        if power.base.has(sympy.Pow) or not power.exp.is_Number or abs(power.exp) > 100:
            return None
    value = found[0].doit()
    return float(value) if value.is_real else None


@cache
def library(name: str):
    """A library of the extra `train`, imported at its first use."""
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is needed to grade such answers: pip install 'zipr1[train]'"
        ) from error


GRADERS: dict[str, Callable[[str, str], float | None]] = {
    "exact": exact,
    "multiple choice": choice,
    "numerical": numerical,
    "OCR": ocr,
    "free-form": free_form,
    "regression": regression,
}
