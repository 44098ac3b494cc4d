"""Mutated answers in every grader: no exception, no hang, and only grades in [0, 1] or None."""

import os
import random
import time

import pytest

from zipr1.data.example import Example
from zipr1.rewards.graders import GRADERS, grade, score

TRIES = 10_000
SECONDS = 30  # for one completion, times the number of processes that share a core
SEEDS = [
    "B", "**B**", "(b) a cat", "Answer: A, C", r"\boxed{B}", "The answer is B.", "A or B", "AC",
    "答案是B。",
    "12", "1,234.5", "0,100", "-3.5e-7 m", "50%", "1 1/2", "½", "(0, 1)", "[2, 5)", "5-6", "2√3",
    "10³",
    r"$\frac{3}{4}$", r"$\sqrt{2}$", r"\begin{pmatrix}1\\2\end{pmatrix}", r"$\{1, 2\}$",
    "$x^2 + 1 = 0$",
    r"$9^{9^{9}}$", r"$\binom{10}{5}$", r"$\sum_{n=1}^{9} n$", r"$\int_0^1 x\,dx$", r"$|{-3}|$",
    r"$\log_2 8$",
    r"$e^{i\pi}$", r"\text{five}", r"$x \geq 5$", "5 or 6", "x = 5", "1 million", "٥٫٥", "共5个",
    "a red ball rolls", "红色的球", "красный мяч", "الكرة", "빨간 공", "ลูกบอล", "cafe\u0301",
    "👍🏽", "STOP\nAHEAD",
    "<think>why</think>12", "<answer>B</answer>", "<answer><answer>", "</think>", "\u200b\ufeff",
    "\x00\ud800",
]  # fmt: skip
PIECES = [
    *("\\", "{", "}", "(", ")", "[", "]", "$", "^", "_", "&", "%", "=", "<", ">", "|", "!", ",",
    ".", "-"),
    *("\\frac", "\\sqrt", "\\boxed{", "\\begin{matrix}", "\\left(", "\\pi", "\\\\", "^{9^{9^9}}",
    "!!"),
    *("answer is ", "Answer: ", " or ", " and ", "1e999", "0/0", "∞", "½", "²", "\N{MINUS SIGN}",
    "\n", " " * 50),
    *("<think>", "</think>", "<answer>", "</answer>", "**", "字", "\u0301", "\u202e", "9" * 50,
    "(" * 50, "1,1," * 20),
]  # fmt: skip


def mutated(rng: random.Random, text: str = "") -> str:
    """A text, or one to three of SEEDS, with pieces inserted, cut out, repeated or reversed."""
    most = 1 if text else 6
    text = text or " ".join(rng.sample(SEEDS, rng.randint(1, 3)))
    for _ in range(rng.randint(0, most)):
        start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:start] + rng.choice(PIECES) + text[start:]
        elif kind == 1:
            text = text[:start] + text[end:]
        elif kind == 2:
            text = text[:start] + text[start:end] * rng.randint(2, 40) + text[end:]
        elif kind == 3:
            text = text[:start] + text[start:end][::-1] + text[end:]
        else:
            text = text[:start] + chr(rng.choice((rng.randrange(0x3000), 0x4E00, 0x1F600)))
    return text[:20_000]


@pytest.mark.slow
def test_fuzzed_answers():
    rng = random.Random(0)
    counts = dict.fromkeys(("unparsable", "correct", "wrong"), 0)
    slowest = (0.0, "")
    for problem_type, text in (("free-form", "a"), ("OCR", "a"), ("numerical", r"$\sqrt{4}$")):
        score(
            Example("", "", "?", text, problem_type=problem_type), text + " b"
        )  # imports libraries
    for number in range(TRIES):
        problem_type = list(GRADERS)[number % len(GRADERS)]
        expected = rng.choice(SEEDS) if rng.random() < 0.8 else mutated(rng)
        completion = mutated(rng, expected if rng.random() < 0.3 else "")
        example = Example(str(number), "", "?", expected, problem_type=problem_type)
        began = time.monotonic()
        value, binary = score(example, completion), grade(example, completion)
        took = time.monotonic() - began
        slowest = max(slowest, (took, completion))
        limit = SECONDS * max(1.0, os.getloadavg()[0] / os.cpu_count())
        assert took < limit, (problem_type, expected, completion)
        assert value is None or 0 <= value <= 1, (problem_type, expected, completion, value)
        assert binary in (None, 0.0, 1.0) and (value is None) == (binary is None)
        counts["unparsable" if binary is None else "correct" if binary else "wrong"] += 1
    print(counts, f"slowest: {slowest[0]:.1f} s on {slowest[1][:100]!r}")
    assert min(counts.values()) > TRIES / 100  # of each some, so that the texts are not all noise
