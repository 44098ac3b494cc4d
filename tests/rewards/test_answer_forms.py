"""Answers as models and data sets write them: what each grader reads, and what it calls unparsable.

None stands for unparsable. docs/archive/cases_rewards.md lists the groups.
"""

import json
import os
import threading
import time

import pytest
from command_line import run

import zipr1.rewards.latex as latex
from zipr1.data.example import Example
from zipr1.rewards.choice import letters
from zipr1.rewards.graders import grade, score
from zipr1.rewards.latex import latex_value
from zipr1.rewards.numeric import values


def scored(problem_type: str, answer: str, completion: str) -> float | None:
    return score(Example("7", "", "?", answer, problem_type=problem_type), completion)


NOT_A_NUMBER = [
    # objects of math-verify that are no numbers
    r"\begin{pmatrix}1\\2\end{pmatrix}", r"$\begin{pmatrix}5\end{pmatrix}$",
    r"$\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}$", r"\boxed{\begin{bmatrix}5\end{bmatrix}}",
    "$[0, 1]$", r"$(-\infty, 5]$", r"[2, \infty)", r"$\{1, 2\}$", r"$\emptyset$", "$(0, 100)$",
    r"$\left(0,100\right)$", "$x = 5$", "$x^2 + 1 = 0$", "$x > 5$", r"$x \geq 5$", r"x \leq 5",
    r"$\text{five}$", "$3 + 4i$", "$i$", r"\infty", r"$\lim_{x \to 0} x$", r"$\int_0^1 x dx$",
    "$x$",
    # more than one number
    "(0,100)", "(0, 1)", "[0, 1]", "{1, 2}", "(1, 2, 3)", "1, 2", "1; 2", "5 or 6", "5, 6 and 7",
    "between $5 and $6", "3 of 5", "x=2, y=5", "12 34", "5-6", "5 – 6", "5:30", "1/2/3", "5x3",
    "2024-05-06", "±5", "5 ± 1", "5 × 3", "3 red and 2 blue ones, so 5",
    # ambiguous separators
    "0,100", "1,2", "0,5", "3,14", "1,23", "1.234,56", "1.000.000", "12,34,567", "1,000,00",
    "1.2.3",
    # no number
    "x > 5", "5 < x", "twelve", "nan", "inf", "1/0", "1e999", "∞", "-", "...", "5!", "0x10",
    "5 = x",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_A_NUMBER)
def test_no_number_or_several(text):
    """As a completion and as the expected answer, for both problem types that compare numbers."""
    for problem_type in ("numerical", "regression"):
        for number in ("0", "1", "5", "100"):
            assert scored(problem_type, number, text) is None
        assert scored(problem_type, text, "5") is None


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1234567, "1,234,567"), (1234.5, "1,234.5"), (1000, "1,000.00"), (100000, "100,000"),
        (1234, "1 234"), (1000000, "1 000 000"), (1234, "1\N{NARROW NO-BREAK SPACE}234"),
        (1234, r"1{,}234"), (1234, r"1\,234"), (0.1, ".1"), (5, "5."), (12.5, "12.50"), (5, "+5"),
        (5, "x = 5"), (5, "2 + 3 = 5"), (7, "= 7"), (5, "the area = 5 cm"), (5, "3+2"), (6, "2*3"),
        (5, r"\boxed{5}"), (5, r"$\boxed{5}$"), (-5, r"so \boxed{-5}."),
        (0.5, r"\boxed{\frac{1}{2}}"),
        (5, "3 red and 2 blue ones: the answer is 5."), (5, "**Answer:** 5"), (5, "Answer: **5**"),
        (5, "**5**"), (5, "`5`"), (5, "5 cm"), (5, "5 m^2"), (5, "5 m²"), (3, "H2O has 3 atoms"),
        (5, "$5"), (-5, "-$5"), (5, "5 €"), (5, "5°"), (5, r"$5^\circ$"), (5, r"$5 \text{ cm}$"),
        (0.5, "½"), (1.5, "1½"), (-1.5, "-1 1/2"), (0.5, r"\frac{1}{2}"), (8, "2^3"), (1000, "10³"),
        (1.6e-19, "1.6×10⁻¹⁹ C"), (1.6e-19, r"$1.6\times10^{-19}$"), (1e6, "1 million"),
        (5, "٥"), (5, "५"), (5, "５"), (1.5, "١٫٥"), (5, "共5个"), (5, "答案是5"), (5, "答案：5。"),
        (2, "√4"), (2, r"\sqrt{4}"), (2 ** 0.5, r"\sqrt{2} cm"), (3, "$|-3|$"), (5, r"\(5\)"),
        (5, "~5"), (5, "≈ 5"), (5, "5th"), (-5, "\N{MINUS SIGN}5"), (-5, "－5"),
    ],
)  # fmt: skip
def test_one_number(number, text):
    assert values(text) == (pytest.approx(number, rel=1e-12),)


@pytest.mark.parametrize(
    ("expected", "completion", "correct"),
    [
        # equal after rounding to two decimals, as in Video-R1
        ("12", "12.004", 1), ("12", "12.006", 0), ("0.33", "1/3", 1), ("0.17", "1/6", 1),
        ("1000000", "1000001", 0), ("-3.14", "-3.1416", 1), ("3.14", "-3.14", 0),
        ("0.1", "0.104", 1),
        # and within 5 %: below 0.1 rounding alone would make different numbers equal
        ("0", "0.003", 0), ("0.003", "0", 0), ("0.003", "0.004", 0), ("0", "-0.001", 0),
        ("0.003", "-0.003", 0), ("0.08", "1/12", 1), ("0", "0.0", 1), ("0", "-0", 1),
        ("1e-5", "0.00001", 1), ("1e-5", "2e-5", 0), ("1.6e-19", "1.602e-19", 1),
        ("0.003", "0.3%", 1), ("50", "50%", 1), ("0.5", "50%", 1), ("50%", "0.5", 1),
        ("50", "0.5%", 0),
        ("50%", "50٪", 1), ("100", "100,000", 0),
    ],
)  # fmt: skip
def test_tolerance(expected, completion, correct):
    assert scored("numerical", expected, completion) == correct


@pytest.mark.parametrize(
    "text",
    [
        "B", "B.", "(B)", "B)", "b)", "(b)", "[B]", "B) a cat", "(b) a cat", "B. a cat", "B: a cat",
        "B - a cat", "B\nIt is a cat.", "B, because it purrs", "B because A is wrong", "B) 5 m/s",
        "**B**", "*B*", "__B__", "`B`", '"B"', "<b>B</b>", "**B. a cat**", "B!", "B is correct.",
        "Answer: B", "answer: b", "Answer: (b)", "**Answer:** B", "**Answer**: B",
        "Answer - B"[:6] + ": B",
        "The answer is B.", "The answer is (b).", "The correct answer is B: a cat.",
        "Final answer: B",
        "A is too small, C too large. The answer is B.", "The correct option is B", "Option B",
        "option (b)",
        r"\boxed{B}", r"\boxed{b}", r"$\boxed{\text{B}}$", r"\boxed{\textbf{(B)}}", r"$B$",
        r"\(B\)",
        "I choose B.", "B is the correct answer", "It is B", "Ｂ", "（B）", "Ⓑ", "答案是B",
        "答案：B。", "选B",
        "<think>A, or C?</think>B", "<answer>B</answer>", "Answer: A. No, wait. Answer: B",
    ],
)  # fmt: skip
def test_the_letter_of_an_option(text):
    assert scored("multiple choice", "B", text) == 1
    assert scored("multiple choice", "A", text) == 0
    assert scored("multiple choice", "A,B", text) == 0


@pytest.mark.parametrize(
    "text",
    [
        "A or B", "B or C", "A/B", "(A) or (B)", "A) or B)", "B, or C", "A, B or C",
        "The answer is A or B",
        r"\boxed{A or B}", "Answer: A/B", "b", "a", "A cat", "Banana", "the second",
        "none of them", "",
        "The answer is a cat", "The answer is not B", "I think so", "A) a cat B) a dog",
        "A. cat\nB. dog",
        "?", r"\boxed{}", "the answer is",
    ],
)  # fmt: skip
def test_no_option_or_alternatives(text):
    assert scored("multiple choice", "B", text) is None


@pytest.mark.parametrize("text", ["A,C", "C, A", "A and C", "A, and C", "A & C", "A;C",
                                  "(a), (c)", "AC",
                                  "**A**, **C**", r"\boxed{A, C}", "The answer is A and C.",
                                  "A、C"])  # fmt: skip
def test_several_options_are_a_set(text):
    assert letters(text) == {"A", "C"}
    assert scored("multiple choice", "A,C", text) == 1
    assert scored("multiple choice", text, "C and A") == 1
    assert scored("multiple choice", "A", text) == 0
    assert scored("multiple choice", "A,B,C", text) == 0


@pytest.mark.parametrize("letter", list("EFGHJZ"))
def test_options_beyond_d(letter):
    assert scored("multiple choice", letter, f"The answer is {letter}.") == 1
    assert scored("multiple choice", f"{letter}. the last", f"({letter.lower()})") == 1


SCRIPTS = [
    "红色的球在桌子上", "красный мяч на столе", "الكرة الحمراء على الطاولة",
    "빨간 공이 탁자 위에 있다",
    "ลูกบอลสีแดงอยู่บนโต๊ะ", "赤いボールがテーブルの上にある", "लाल गेंद मेज पर है", "η κόκκινη μπάλα",
    "quả bóng đỏ", "הכדור האדום", "👍", "→", "I ♥ 北京",
]  # fmt: skip


@pytest.mark.parametrize("text", SCRIPTS)
@pytest.mark.parametrize("problem_type", ["exact", "OCR", "free-form"])
def test_equal_texts_in_any_script(problem_type, text):
    assert scored(problem_type, text, text) == 1
    assert scored(problem_type, text, f" {text}\n") == 1
    assert scored(problem_type, text, "no such thing") == 0
    assert scored(problem_type, text, SCRIPTS[SCRIPTS.index(text) - 1]) < 0.5


@pytest.mark.parametrize(
    ("expected", "completion", "value"),
    [
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}", 1),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8", 1),  # syllable against its parts
        ("ガス", "ｶﾞｽ", 1), ("STOP", "ＳＴＯＰ", 1), ("fire", "\N{LATIN SMALL LIGATURE FI}re", 1),
        ("禁止停车", "禁止停车。", 3 / 4), ("禁止停车", "禁止 停车", 1),
        ("禁止停车", "禁止停東", 3 / 4),
        ("注意!", "注意！", 1), ("(营业)", "（营业）", 1), ("出口 EXIT", "出口EXIT", 1),
        ("出口 EXIT", "出口 EXIST", 2 / 3), ("ห้ามจอด", "ห้ามจอด", 1), ("ห้ามจอด", "ห้ามจอ", 5 / 6),
        ("STOP\u200b", "STOP", 1), ("הכניסה", "\u200fהכניסה", 1),
        ("50 %", "50\N{NO-BREAK SPACE}%", 1),
        ("STOP AHEAD", "STOP", 1 / 2), ("Stop", "STOP", 0), ("СТОП", "СТОП", 1),
        ("قف هنا", "قف", 1 / 2),
    ],
)  # fmt: skip
def test_ocr_by_normalised_words_or_characters(expected, completion, value):
    assert scored("OCR", expected, completion) == pytest.approx(value)


@pytest.mark.parametrize(
    ("expected", "completion", "value"),
    [
        # by characters: 2 of 4 and 2 of 2; longest common subsequence the same; one pair in common
        ("红色的球", "红球", (2 / 3 + 2 / 3 + 0) / 3),
        ("红色的球", "红色的球。", 1), ("Красный мяч", "красный мяч.", 1),
        ("café noir", "CAFÉ NOIR!", 1),
        ("красный мяч", "красный", (2 / 3 + 2 / 3 + 0) / 3), ("빨간 공", "빨간 차", 1 / 3),
        ("naïve", "naive", 0), ("running dogs", "runs dog", 1),
    ],
)  # fmt: skip
def test_free_form_by_words_or_characters(expected, completion, value):
    assert scored("free-form", expected, completion) == pytest.approx(value)


def test_exact_in_any_form():
    for completion in ("CAFE\N{COMBINING ACUTE ACCENT}", " café. ", "ｃａｆé"):
        assert scored("exact", "café", completion) == 1
    assert scored("exact", "红色", "红色。") == 1 and scored("exact", "Straße", "STRASSE") == 1
    assert scored("exact", "café", "cafe") == 0


ENDLESS = [
    "$9^{9^{9^{9}}}$", r"$\sqrt{2^{2^{2^{2^{2^2}}}}}$", "$20000000!$", r"$\binom{10^9}{10^8}$",
    r"$\prod_{n=1}^{99999999} n$", r"$\sum_{n=1}^{99999999} \frac{1}{n}$", "$" + "(" * 5000 + "$",
    r"\boxed{" * 3000, r"$\frac" + "{" * 400 + "$", "2^" * 3000 + "2", "1,1" * 20000,
    "(" + "1," * 30000,
    "^" + " " * 100000 + "x", "\n" * 100000 + "5x", "<answer>" * 1000,
    "<think>" * 3000 + "</think>",
    "A" + " " * 100000 + "x", "A) " * 30000, "answer is " * 9000, "*" * 100000, "\\(" * 30000,
    "word " * 9000, "字" * 30000, "1 " * 50000, "é" * 100000, "\u0301" * 100000, "$" * 50001,
]  # fmt: skip


@pytest.mark.parametrize("text", ENDLESS, ids=lambda text: repr(text[:16]))
def test_no_completion_takes_long(text):
    """Of processor time in this process, and in the one that reads LaTeX."""
    latex_value("1")  # the process has started
    expected = {"multiple choice": "B", "OCR": "GO " * 50, "free-form": "a red ball " * 50}
    before, began = time.process_time(), time.monotonic()
    for problem_type in ("exact", "multiple choice", "numerical", "regression", "OCR", "free-form"):
        value = scored(problem_type, expected.get(problem_type, "12"), text)
        assert value is None or value < 0.5
    assert time.process_time() - before < 5
    processes = max(1.0, os.getloadavg()[0] / os.cpu_count())  # that share a core
    assert time.monotonic() - began < 30 * processes


def test_latex_that_hangs_is_cut_off_and_the_next_is_read(monkeypatch):
    """Without the checks that come before: the kernel ends the process, and another one starts."""
    monkeypatch.setattr(latex, "LONGEST", 10_000)
    monkeypatch.setattr(latex, "DEEPEST", 10_000)
    assert latex_value(r"\sqrt{16}") == 4
    first = latex._worker.process.pid
    assert latex_value("(" * 2000 + "1" + ")" * 2000) is None
    assert latex_value(r"\sqrt{25}") == 5
    assert latex._worker.process.pid != first


def test_latex_is_read_in_threads_and_after_a_fork():
    found = {}

    def read(n: int) -> None:
        found[n] = values(rf"$\sqrt{{{n * n}}}$")

    threads = [threading.Thread(target=read, args=(n,)) for n in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: (float(n),) for n in range(2, 8)}
    child = os.fork()
    if not child:
        os._exit(0 if values(r"$\sqrt{81}$") == (9.0,) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert values(r"$\sqrt{121}$") == (11.0,)


ANSWERS = {
    "free-form": ["红色的球", "красный мяч", "الكرة الحمراء", "빨간 공", "ลูกบอลสีแดง", "👍"],
    "OCR": ["禁止停车。", "cafe\N{COMBINING ACUTE ACCENT}", "СТОП", "قف"],
    "multiple choice": ["A,C", "(b)", "F"],
    "numerical": ["1,234", "3/4", "٥", r"\frac{1}{2}"],
}


def test_the_answers_of_rows_are_graded_right_by_the_data_check(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        {"prompt": "?", "answer": answer, "problem_type": problem_type}
        for problem_type, answers in ANSWERS.items()
        for answer in answers
    ]
    bad = [
        {"prompt": "?", "answer": answer, "problem_type": "numerical"}
        for answer in ("(0,100)", "0,100", r"$\begin{pmatrix}1\\2\end{pmatrix}$", "5 or 6")
    ]
    bad.append({"prompt": "?", "answer": "A or B", "problem_type": "multiple choice"})
    (tmp_path / "rows.json").write_text(json.dumps(rows + bad))
    status, out, _ = run(
        capsys, "data", "check", str(tmp_path / "rows.json"), "--json", "--workers", "0"
    )
    report = json.loads(out)
    messages = [message for part in report["problems"].values() for message in part]
    assert status == 1 and report["usable"] == len(rows)
    assert len(messages) == len(bad) and all("its own answer" in message for message in messages)


@pytest.mark.parametrize("completion", NOT_A_NUMBER[:8] + ENDLESS[:4])
def test_a_binary_grade_of_what_cannot_be_read(completion):
    assert grade(Example("7", "", "?", "5", problem_type="numerical"), completion) is None
