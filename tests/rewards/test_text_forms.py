"""Exact, OCR and free-form answers: powers, hyphens, quotes; signs that change a short answer."""

import pytest

from zipr1.data.example import Example
from zipr1.rewards.graders import grade


def graded(problem_type: str, expected: str, completion: str) -> float | None:
    return grade(Example("7", "", "?", expected, problem_type=problem_type), completion)


@pytest.mark.parametrize("problem_type", ["exact", "OCR"])
@pytest.mark.parametrize(
    ("expected", "completion", "equal"),
    [
        ("102", "10²", 0), ("25", "2⁵", 0), ("12", "1²", 0), ("103", "10₃", 0), ("11/2", "1½", 0),
        ("10^2", "10²", 1), ("1/2", "½", 1),
        ("-5", "\N{MINUS SIGN}5", 1), ("-5", "\N{EN DASH}5", 1), ("co-op", "co\N{NON-BREAKING HYPHEN}op", 1),
        ("it's", "it\N{RIGHT SINGLE QUOTATION MARK}s", 1), ("it\N{RIGHT SINGLE QUOTATION MARK}s", "it's", 1),
        ('"a"', "\N{LEFT DOUBLE QUOTATION MARK}a\N{RIGHT DOUBLE QUOTATION MARK}", 1),
        ("cat", "<answer>cat", 1),
    ],
)  # fmt: skip
def test_unicode_forms(problem_type, expected, completion, equal):
    assert graded(problem_type, expected, completion) == equal


@pytest.mark.parametrize(
    ("expected", "completion"),
    [
        ("-5", "5"), ("5", "-5"), ("$5", "5%"), ("5%", "$5"), ("€5", "$5"), ("3.5", "5.3"),
        ("1+1", "1-1"), ("1 + 1", "1 - 1"), ("x > 3", "x < 3"), ("C++", "C"), ("C", "C++"),
        ("C#", "C"), ("A+", "A-"), ("A-", "A"), ("3/4", "4/3"), ("-5 degrees", "5 degrees"),
    ],
)  # fmt: skip
def test_a_sign_changes_a_short_free_form_answer(expected, completion):
    assert graded("free-form", expected, completion) == 0
    assert graded("free-form", expected, expected) == 1


@pytest.mark.parametrize(
    ("expected", "completion"),
    [("1,000", "1000"), ("$1,000", "1000 dollars"), ("1,234,567 people", "1234567 people")],
)
def test_thousands_of_a_free_form_answer(expected, completion):
    assert graded("free-form", expected, completion) == 1


@pytest.mark.parametrize(
    ("expected", "completion"),
    [
        ("$5", "5 dollars"), ("50%", "50 percent"), ("$5", "5"), ("5", "$5"), ("5", "5.0"), ("5.", "5"),
        ("2020-2021", "2020 to 2021"), ("2020\N{EN DASH}2021", "2020-2021"), ("a cat", "A cat."),
        ("well-known", "well known"), ("5 apples", "5, apples"), ("COVID-19", "covid 19"), ("5°", "5 degrees"),
        ("2.50 m", "2.5 m"),
    ],
)  # fmt: skip
def test_other_forms_of_a_free_form_answer(expected, completion):
    assert graded("free-form", expected, completion) == 1
