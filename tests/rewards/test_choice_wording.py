"""The letter of an option among words: continuations, corrections, negations, lists, Chinese."""

import pytest

from zipr1.rewards.choice import letters

B = [
    # of several statements the one that gives the answer
    "The answer is B. Another choice is A", "B is the answer because the other choice is A",
    "The answer is (B). The answer is supported by the figure.", "B. The answer is in the image.",
    "B. My answer is based on A",
    # "Q: ... A:" goes on
    "A: B", "A: B.", "A: (B) cat",
    # words around the letter
    "B (cat)", "Answer: B (cat)", "The answer is B (the red car).", "The answer must be B",
    "Therefore, B.", "So B", "Hence (B)", "B, I think", "I think B", "I'd say B.", "B,", "B;",
    "### Answer\nB", "### B", '{"answer": "B"}', "Option b", "Choice b.", "option b is correct",
    "Letter B", "B is true", "B seems right", "B is correct because A is wrong", "It must be B",
    # Chinese, quotes
    "故选B", "故选：B", "应选B。", "B选项", "选项B正确", "B正确", "正确选项是B", "【B】", "「B」", "«B»",
    "\N{LEFT SINGLE QUOTATION MARK}B\N{RIGHT SINGLE QUOTATION MARK}",
]  # fmt: skip


@pytest.mark.parametrize("text", B)
def test_one_option(text):
    assert letters(text) == {"B"}


@pytest.mark.parametrize(
    "text",
    [
        "A\nC", "- A\n- C", "* A\n* C", "(A)\n(C)", "Answer:\nA\nC", "Answer:\n- A\n- C",
        "A and C are correct", "A and C are both correct.", "The correct answers are A and C",
        "The correct options are A and C.", "Options A and C", "Both A and C", "A,C,",
        "Both A and C are correct",
    ],
)  # fmt: skip
def test_several_options(text):
    assert letters(text) == {"A", "C"}


@pytest.mark.parametrize(
    "text",
    [
        # negated
        "(A) is wrong", "A) is not right", "A: incorrect", "A - wrong", "Option (A) is wrong",
        "(A) isn't right", "A) cannot be right", "(A) is clearly wrong",
        # corrected, or doubtful
        "A, no wait, B", "A. Actually B", "A, sorry, B", "A, maybe C", "A - or maybe B", "A - or B",
        "A, possibly B", "A because it is red, actually B",
        "The answer is A. No wait, it's B.", "The answer is A. Actually, B.",
        # a word, or several letters
        "A, man", "A, the only possible, is not there", "I, too, see B", "A.B.",
        "(A) and C are possible", "I would rule out option: A. So B", "The wrong answer is A",
    ],
)  # fmt: skip
def test_no_decision(text):
    assert letters(text) is None


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("B. Wrong", "B"), ("B) incorrect", "B"), ("B: Incorrect", "B"),
        ("B. No", "B"), ("B. False", "B"), ("B: Not enough information", "B"), ("B, the cat", "B"),
        ("B) cannot be determined", "B"), ("B) can't tell", "B"), ("B. not A", "B"), ("B, not A", "B"),
        ("B. Actually, the cat is black", "B"), ("B. Maybe a cat", "B"), ("B) No, thanks", "B"),
        ("A, because it", "A"), ("A, it is red", "A"), ("A. a man is sorry", "A"), ("A: cat", "A"),
        ("The answer is A. Actually easy.", "A"), ("I", "I"), ("A, not B", "A"),
        ("The wrong answer is A. The answer is B", "B"),
    ],
)  # fmt: skip
def test_neighbours_that_were_read_before(text, option):
    assert letters(text) == {option}


@pytest.mark.parametrize(
    "text",
    ["B (or C)", "A (wrong)", "B (C)", "Options A or C", "Therefore, A or B", "So A man", "B还是C", "B不正确",
     "A and C are wrong", "Options: A, B, C, D", "Neither A nor C", "A small (red) cat", "b", "A. No, B.", "A... no, B."],
)  # fmt: skip
def test_neighbours_that_stay_unparsable(text):
    assert letters(text) is None
