"""Grades, by numbers worked out by hand."""

import sys

import pytest

from zipr1.data.example import Example
from zipr1.rewards.extra import library
from zipr1.rewards.graders import grade, score


def row(problem_type: str, answer: str) -> Example:
    return Example("7", "", "?", answer, problem_type=problem_type)


@pytest.mark.parametrize(
    ("problem_type", "answer", "completion", "expected"),
    [
        *(
            ("multiple choice", "B", said, 1)
            for said in ("B", "B.", "(B)", "B) a cat", "B. a cat", " B\n", "<answer>B</answer>")
        ),
        *(("multiple choice", "B", said, 0) for said in ("C", "C. B", "(A)")),
        *(
            ("multiple choice", "B", said, None)
            for said in ("b", "A cat", "Banana", "the second", "", "<answer></answer>")
        ),
        ("multiple choice", "B. a cat", "B", 1),
        (
            "multiple choice",
            "B",
            "<think>A, or C? <answer>C</answer> no.</think> <answer>B</answer>",
            1,
        ),
        ("numerical", "12", "<think>There are 12", None),  # no answer yet
        ("numerical", "1234.5", "1,234.5", 1),
        ("numerical", "1234567", "1,234,567", 1),
        ("numerical", "12", "1,2", None),
        ("numerical", "0.75", "3/4", 1),
        ("numerical", "0.75", r"$\frac{3}{4}$", 1),
        ("numerical", "50", "50%", 1),
        ("numerical", "0.5", "50%", 1),
        ("numerical", "12", "12.004", 1),
        ("numerical", "12", "12.006", 0),
        ("numerical", "-3", "\N{MINUS SIGN}3", 1),
        ("numerical", "1500", "1.5e3", 1),
        ("numerical", "7", "The answer is 7 apples.", 1),
        ("numerical", "2.83", r"$2\sqrt{2}$", 1),
        ("numerical", "3.14", r"$\pi$", 1),
        ("numerical", "3", r"$|-3|$", 1),
        ("numerical", "3", r"$\log_2 8$", 1),
        *(("numerical", "12", said, None) for said in ("twelve", "nan", "1/0", "9^9^9^9^9", "inf")),
        # What would take for ever to work out is no answer.
        *(
            ("numerical", "12", said, None)
            for said in ("$20000000!$", r"$\binom{10^9}{10^8}$", r"$\prod_{n=1}^{99999999} n$")
        ),
        *(
            ("numerical", "1500", said, 1)
            for said in ("1.5 \N{MULTIPLICATION SIGN} 10^3", r"1.5 \times 10^{3}", "1.5x10^3")
        ),
        ("numerical", "1500", "9 \N{MULTIPLICATION SIGN} 10^3", 0),
        ("regression", "0.00035", "3.5E-4 m", 1),
        *(("numerical", "1.5", said, 1) for said in ("1 1/2", r"1\frac{1}{2}", "(1.5)")),
        *(("numerical", "-5", said, 1) for said in ("- 5", "-$5", "\N{EN DASH}5", "- 5 m")),
        ("numerical", "3.46", "2\N{SQUARE ROOT}3", 1),
        *(
            ("numerical", "5", said, None) for said in ("5-6", "5 \N{EN DASH} 6", "5:30")
        ),  # a range, a time
        ("OCR", "STOP AHEAD", "STOP\nAHEAD", 1),
        ("OCR", "STOP AHEAD NOW PLEASE", "STOP AHEAD NOW", 3 / 4),  # one of four words is missing
        (
            "OCR",
            "GO",
            "GO LEFT THEN RIGHT",
            0,
        ),  # three words too many for one: 1 - 3, but no less than 0
        # words: 2 of 3 and 2 of 4, F = 4/7, as for the longest common subsequence;
        # pairs of words: 1 of 2 and 1 of 3, F = 2/5
        ("free-form", "a red ball rolls", "the red ball", (4 / 7 + 4 / 7 + 2 / 5) / 3),
        ("free-form", "red", "Red.", 1),  # one word has no pairs
        ("regression", "10", "9", 0.9),
        ("regression", "-10", "-12", 0.8),
        ("regression", "2", "5", 0),
        ("regression", "0", "0.1", 0),
        ("regression", "0", "0.0", 1),
        ("regression", "10", "ten", None),
        ("exact", "Red", "red.", 1),
        ("exact", "red", "dark red", 0),
        ("exact", "In the U.S.", "in the U.S.", 1),
    ],
)
def test_scores(problem_type, answer, completion, expected):
    got = score(row(problem_type, answer), completion)
    assert got == (None if expected is None else pytest.approx(expected))
    assert grade(row(problem_type, answer), completion, graded=True) == (
        expected if expected is None else pytest.approx(expected)
    )


@pytest.mark.parametrize(
    ("problem_type", "answer", "right", "wrong"),
    [
        ("OCR", "TURN LEFT", "TURN RIGHT", "STOP RIGHT"),  # 1/2 and 0
        ("OCR", "A B C D E", "A B C", "A B"),  # 3/5 and 2/5
        (
            "free-form",
            "a red ball rolls",
            "the red ball",
            "the red bus",
        ),  # 0.51, and (2/7 + 0 + 2/7) / 3
        ("regression", "2.0", "2.1", "2.11"),  # 5 % off, and 5.5 %
        ("regression", "2.2", "2.09", "2.08"),  # 5 %, which floats make a little more
        ("numerical", "3.14", "3.144", "3.146"),
    ],
)
def test_a_binary_grade_has_a_threshold(problem_type, answer, right, wrong):
    example = row(problem_type, answer)
    assert [grade(example, right), grade(example, wrong)] == [1.0, 0.0]


def test_an_unknown_problem_type_is_an_error():
    with pytest.raises(
        ValueError, match="row 7: problem type 'golf': expected one of exact, multiple choice"
    ):
        grade(row("golf", "B"), "B")


def test_a_missing_library_names_the_extra(monkeypatch):
    library.cache_clear()
    monkeypatch.setitem(sys.modules, "jiwer", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"jiwer is needed.*pip install 'zipr1\[train\]'"):
        grade(row("OCR", "GO"), "GO")
