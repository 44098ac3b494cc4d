"""Numbers with a multiplier behind them, or letters before them; percentages against each other."""

import re

import pytest

from zipr1.data.example import Example
from zipr1.rewards.graders import score
from zipr1.rewards.numeric import values


def scored(problem_type: str, answer: str, completion: str) -> float | None:
    return score(Example("7", "", "?", answer, problem_type=problem_type), completion)


MULTIPLIED = [
    (5000, "5k"), (5000, "5K"), (5000, "about 5k people"), (5e6, "5,000k"), (5000, "5 thousand"),
    (5e9, "5 bn"), (5e9, "5bn"), (5e6, "5 mn"), (24, "2 dozen"), (24, "2 dozen eggs"),
    (300, "3 hundred"), (3e5, "3 hundred thousand"), (1.5e6, "1.5 millions"), (5e6, "5-million"),
    (2e5, "2 lakh"), (3e7, "3 crores"), (3e12, "3 trillion"),
    (3e6, "$3M"), (2.5e9, "$2.5B"), (-5e6, "-$5m"), (5e6, "€5 m"), (5000, "$5 k"), (5e6, "$5mm"),
    (300, "3百"), (3000, "3千"), (3e6, "3百万"), (5e7, "5千万円"), (3e4, "3萬"), (3e8, "3億"),
    (3e12, "3万亿"), (3e4, "3만"), (3e8, "3억 원"), (3000, "答案是3千。"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "text"), MULTIPLIED)
def test_a_multiplier(number, text):
    assert values(text) == (pytest.approx(number, rel=1e-12),)
    for problem_type in ("numerical", "regression"):
        assert scored(problem_type, f"{number:.0f}", text) == 1
        bare = re.search(r"[\d.,]+", text)[0]
        assert scored(problem_type, bare, text) != 1


@pytest.mark.parametrize(
    "text",
    ["3M", "3 M", "3B", "3 B", "3b", "3T", "3 k", "3 mil", "3 tn", "3 MN", "3兆", "3조", "3M USD",
     "3 hundredths", "3 thousandths", "$3k$", r"\(3 M\)", "10^3 million", "2*3k", "v1.3", "v3",
     "A1,003", "version v2.3"],
)  # fmt: skip
def test_what_is_ambiguous_is_no_number(text):
    assert values(text) == ()
    assert scored("numerical", "3", text) is None and scored("numerical", text, "3") is None


@pytest.mark.parametrize(
    "text",
    ["3 m", "3m", "3 km", "3 kg", "3 K", "3 T", "3 Mbit", "3 months", "3 min", "3 mm", "3x", "$3$",
     "3千克", "3千米", "3百分点", "US$3", "No.3", "3 millet seeds", "$3 kg$"],
)  # fmt: skip
def test_a_unit_multiplies_nothing(text):
    assert values(text) == (3,)


@pytest.mark.parametrize("problem_type", ["numerical", "regression"])
@pytest.mark.parametrize(
    ("expected", "answer", "equal"),
    [("100%", "1%", False), ("50%", "0.5%", False), ("1%", "100%", False), ("50%", "50 percent", True),
     ("50%", "0.5", True), ("50%", "50", True), ("0.5", "50%", True), ("百分之50", "50%", True)],
)  # fmt: skip
def test_percentages_are_compared_as_percentages(problem_type, expected, answer, equal):
    assert (scored(problem_type, expected, answer) == 1) == equal
