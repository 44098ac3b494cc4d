"""Numbers whose words, signs or dashes change their value; equations; where a number is stated."""

import pytest

from zipr1.data.example import Example
from zipr1.rewards.graders import grade
from zipr1.rewards.numeric import values


def graded(expected: str, completion: str) -> float | None:
    return grade(Example("7", "", "?", expected, problem_type="numerical"), completion)


@pytest.mark.parametrize(
    "text",
    [
        "\N{NON-BREAKING HYPHEN}5", "\N{HYPHEN}5", "\N{FIGURE DASH}5", "minus 5", "negative 5",
        "Negative 5 degrees", "minus $5", "The answer is minus 5.",
    ],
)  # fmt: skip
def test_a_negative_number(text):
    assert values(text) == (-5,)
    assert graded("-5", text) == 1 and graded("5", text) == 0


@pytest.mark.parametrize(
    "text",
    [
        # a bound, a negation
        "The answer is not 5.", "It is not equal to 5", "It isn't 5", "It cannot be 5",
        "less than 5", "more than $5", "no more than 5", "at least 5", "at most 5", "up to 5",
        "over 5", "5 or more", "5 people or fewer", "5+", "5+ years", "5 and up",
        "10 below zero", "5 is wrong", "5 at most", "5 at least", "I don't think it is 5",
        "greater than or equal to 5", "five minus 5", "5 per thousand",
        # parts
        "5 and a half", "5 and a quarter", "5 tenths", "2 thirds", "3 quarters", "5 halves",
        "5 and three quarters", "5\N{PER MILLE SIGN}", "5 per mille", "2 tens",
        # number words before digits, functions, other bases
        "twenty 5", "five point 5", "log(5)", "sin(30)", "0xFF", "0xff",
        # a dash that may be a sign or a bullet
        "x - 5", "- 5 apples", "It is - 5", "two items:\n- 5 apples",
    ],
)  # fmt: skip
def test_what_the_words_do_not_state(text):
    assert values(text) == ()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        # a dash behind a word
        (5, "Number of cars - 5"), (5, "Cars \N{EN DASH} 5"), (5, "Answer - 5"), (5, "Cars (red) - 5"),
        # dots
        (5, "The answer is...5"), (5, "So\N{HORIZONTAL ELLIPSIS}5"), (5, "The answer is... 5"),
        # other words
        (20, "The $20 T-shirt"), (20, "a $20 t-shirt"), (5, "It is 5!"), (5, "There are 5!"),
        (2**0.5, "sqrt(2)"), (3 * 2**0.5, "3 sqrt(2)"),
        # equations
        (12, "3 × 4 = 12"), (7, "12 - 5 = 7"), (7, "12-5=7"), (5, "10 ÷ 2 = 5"),
        (5, "The total is 2 + 3 = 5"), (5, "x = 10/2 = 5"), (1500, "1,000 + 500 = 1,500"),
        (5, "10 minus 5 = 5 apples"), (20, "Area = 5 x 4 = 20"), (15, "5x3=15"),
        # where it stands
        (42, "The final answer is:\n$$\n42\n$$"), (42, "The answer is:\n\\[\n42\n\\]"),
        (42, "**Answer:**\n```\n42\n```"), (42, "Answer:\n```text\n42\n```"),
        (5, "The answer is approx. 5"), (500, "The answer is Rs. 500"), (5, "2+3=5\n#### 5"),
        (5, "We add 2 and 3.\n#### 5\n"), (5, "2 and 3.\n### Answer\n5"),
        (42, "The answer is 42. This answer is rounded to 2 decimals."),
        (42, "The answer is 42. This answer is based on 3 counts."),
        (42, "The answer is 42. Another answer is 43"), (5, "The answer must be 5. It has 1 digit."),
        # powers and separators
        (0.001, "10^-3"), (1500, "1.5*10**3"), (5000, r"\boxed{5,\!000}"), (1234, "1'234"),
        (1234, "1\N{RIGHT SINGLE QUOTATION MARK}234"),
    ],
)  # fmt: skip
def test_a_number_among_words(number, text):
    assert values(text) == (pytest.approx(number, rel=1e-12),)


@pytest.mark.parametrize("text", ["5 per century", "the 95th percentile"])
def test_no_percentage(text):
    assert len(values(text)) == 1


@pytest.mark.parametrize("text", ["5 per cent", "5 percent", "5 percents", "a percentage of 5 %"])
def test_a_percentage(text):
    assert values(text) == (0.05, 5)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (5, "5 m above the ground"), (5, "about 5"), (5, "5, not more"), (5, "We don't know, 5"),
        (-5, "Answer: - 5"), (-5, "- 5 m"), (5, "five (5)"), (5, "5 half-day trips"), (0.333, "0.333..."),
        (5, "5, which is not even"), (5, "the sum (5)"), (5, "no. 5"), (5, "5 third-graders"), (5, "This answer is 5"), (5, "The answer is given by 5"),
        (5, "I believe that the answer is 5."), (5, "The answer is rounded to 5"),
    ],
)  # fmt: skip
def test_neighbours_that_were_read_before(number, text):
    assert values(text) == (number,)


def test_a_factorial_and_a_corrected_number_are_none():
    assert values("x = 5!") == values("5!") == values("The answer is 5. No, wait, 6.") == ()


@pytest.mark.parametrize(
    ("expected", "completion", "correct"),
    [
        ("12345678901234567", "12345678901234568", 0), ("12345678901234567", "12,345,678,901,234,567", 1),
        ("12345678901234567", "-12345678901234567", 0), ("9" * 400, "5", None),
        # rounded half up
        ("0.125", "0.13", 1), ("2.675", "2.68", 1), ("0.13", "0.125", 1), ("-0.125", "-0.13", 1),
        ("0.125", "0.14", 0), ("0.125", "0.1306", 0), ("0.005", "0.01", 0),
        # an answer without its end tag
        ("5", "<answer>5", 1), ("5", "I count 3 and 2. <answer> 5", 1),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_grades(expected, completion, correct):
    assert graded(expected, completion) == correct


MULTIPLIED = [
    *((2.5e6, f"2.5 {word}") for word in ("mln", "Mio", "Mio.", "Millionen", "millones", "millón",
                                          "миллиона", "млн", "ล้าน", "milyon")),
    *((2.5e3, f"2.5 {word}") for word in ("тыс.", "Tsd.", "हज़ार", "ह\u091c\u093cार", "พัน")),
    (2.5e9, "2.5 Mrd"), (5e6, "5 مليون"), (5e6, "5 triệu"), (5e3, "5 ribu"), (5e5, "5 lacs"), (2.5e9, "2.5 Mrd. €"), (2.5e5, "2.5 लाख"), (2.5e7, "2.5 करोड़"),
    (2.5e15, "2.5 quadrillion"), (3e3, "3仟"), (300, "3佰"), (30, "3拾"), (3e5, "3십만"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "text"), MULTIPLIED)
def test_multipliers_of_other_languages(number, text):
    assert values(text) == (pytest.approx(number, rel=1e-12),)


@pytest.mark.parametrize(
    "word",
    ["mill", "MM", "cr", "ten thousand", "tens of thousands", "gross", "billones", "billón", "tens",
     "hundreds of thousands", "Billionen"],
)  # fmt: skip
def test_a_multiplier_of_unclear_value(word):
    assert values(f"2.5 {word}") == ()


@pytest.mark.parametrize(
    "word", ["mills", "crates", "tents", "millet seeds", "mm", "grosbeaks", "minutes"]
)
def test_a_word_that_only_begins_like_a_multiplier(word):
    assert values(f"3 {word}") == (3,)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The total adds up to 12.", 12), ("It comes up to 12", 12), ("He has left over 5", 5),
        ("The sum is not prime but 9", 9), ("If we do not count him 5", 5),
    ],
)  # fmt: skip
def test_words_that_are_no_bounds(text, number):
    assert values(text) == (number,)


@pytest.mark.parametrize(
    "text",
    [
        "The most plausible answer is B.", "The best possible answer is B.",
        "The most common answer is B.", "I will go with this answer: B",
        "For this question answer: B", "B. From point A to point B.", "B. Only block A pushes block B.",
    ],
)  # fmt: skip
def test_a_choice_in_common_words(text):
    example = Example("7", "", "?", "B", problem_type="multiple choice")
    assert grade(example, text) == 1
