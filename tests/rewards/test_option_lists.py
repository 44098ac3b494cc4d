"""Lists of the options, brackets around letters, Chinese sentences; white space of exact answers."""

import pytest

from zipr1.data.example import Example
from zipr1.rewards.choice import letters
from zipr1.rewards.graders import score


@pytest.mark.parametrize(
    "text",
    [
        "A. cat B. dog C. bird D. fish", "A: cat, B: dog", "A. cat; B. dog", "A - cat, B - dog",
        "A.猫B.狗C.鸟", "A、猫 B、狗", "A：猫，B：狗", "a) cat b) dog", "(a) cat (b) dog",
        "[A] cat [B] dog", "A. cat B. dog\nC. bird", "**A.** cat **B.** dog", "A. 3.5 B. 4.5",
        "[A] cat\n[B] dog",
    ],
)  # fmt: skip
def test_a_list_of_the_options_is_no_answer(text):
    assert letters(text) is None


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("B。", "B"), ("答案是 B，因为它是红色的。", "B"), ("B，因为它是红色的", "B"), ("B因为红", "B"),
        ("B。因为 A 不对。", "B"), ("B，它是红色的", "B"), ("( B )", "B"), ("[ B ]", "B"), ("( b ) a cat", "B"),
        ("[B, C]", "BC"), ("(B, C)", "BC"), ("[ B , C ]", "BC"), ('["B", "C"]', "BC"), ("(B and C).", "BC"),
        ("[b, c]", None), ("(B or C)", None), ("[B/C]", None),
        ("B. rich in vitamin C. It is sour.", "B"), ("B) f(x) = 2", "B"), ("A. The U.S. flag", "A"),
        ("A. a cat (see Fig. 2)", "A"), ("A - a cat", "A"),
    ],
)  # fmt: skip
def test_an_option(text, options):
    assert letters(text) == (frozenset(options) if options else None)


@pytest.mark.parametrize(
    "text", ["new york", "new  york", "new\nyork", " New\tYork. ", "new\N{NO-BREAK SPACE}york", "new york ."]
)  # fmt: skip
def test_white_space_of_an_exact_answer(text):
    example = Example("7", "", "?", "new york", problem_type="exact")
    assert score(example, text) == 1 and score(example, text.replace("w", "w y")) == 0
    assert score(example, "newyork") == 0
