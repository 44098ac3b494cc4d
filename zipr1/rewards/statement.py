"""Where a completion states its answer: in \\boxed{...}, or behind "the answer is"."""

import re

# "Final answer: 7", "the correct option is (B)", "Answer = 7", "### Answer" as a heading, the last
# line "#### 7" of GSM8K, and the same in Chinese.
_STATED = re.compile(
    r"(?:\b(?:answers?|option|choice|(?:correct|right|best)\s+(?:options|choices))\b[*_`\"']*\s*"
    r"(?:\b(?:is|are|(?:would|should|must|will|has\s+to|have\s+to)\s+be)\b[*_`]*\s*[:=]?|[:=])"
    r"|^[#*_ \t]*(?:final\s+)?answer[*_ \t]*$"
    r"|^\#{4}(?=\s*(?:[-+$]*\.?\d|\(?[A-Z]\b)[^\n]*\s*\Z)"
    r"|(?:答案|正确选项|正确的选项)\s*(?:是|为|:|选)\s*:?)[*_`]*\s*",
    re.IGNORECASE | re.MULTILINE,
)
# What makes the answer another than the one to give: "another choice is", "the wrong answer is".
_OTHER = re.compile(
    r"(?<!\bmost )(?<!\bbest )(?<!\bonly )"
    r"\b(?:another|other|wrong|incorrect|possible|plausible|candidate|alternative|each"
    r"|every|available|tempting|common|rule(?:d|s)?\s+out|eliminate[ds]?|exclude[ds]?"
    r"|reject(?:ed|s)?)"
    r"\s+(?:(?!(?:the|my|our|its|correct|right|final|best)\b)\w+\s+)?$",
    re.IGNORECASE,
)
_THIS = re.compile(r"\b(?:this|that)\s+(?:\w+\s+)?$", re.IGNORECASE)  # "this answer is rounded"
# What says something about the answer instead of the answer: "is based on 3 counts".
_ABOUT = re.compile(
    r"(?:(?:supported|based|rounded|shown|obtained|derived|determined|consistent|visible|evident"
    r"|obvious|confirmed|justified|explained|located|correct|in\s+the|from\s+the|because|clear)\b"
    r"|(?:found|given|calculated)\b(?!\s+(?:to\s+be|by|as)\b))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(
    r"(?<!\bapprox)(?<!\bca)(?<!\bRs)(?<!\bUS)[.!?](?=\s|$)|[。！？\n]", re.IGNORECASE
)
_BLOCK = re.compile(r"(\$\$|\\\[|```\w*)\s*\n(.*?)\s*(\$\$|\\\]|```|\Z)", re.DOTALL)
_OPTIONS = re.compile(r"(?:(?:[-*•]\s*)?\(?[A-Z][.)]?\s*?(?:\n|\Z)){2,}\Z")  # one a line
_CORRECTION = re.compile(r"\W*(?:no,?\s+)?(?:wait|actually|sorry|correction|oops)\b", re.IGNORECASE)
_NEAR = 60  # characters before a mark in which a word says that it is about another answer


def stated(text: str) -> tuple[str, bool]:
    """The part of a text that states its answer, and whether the text marks it as the answer.

    The content of the last \\boxed{...}, else the rest of the sentence behind the last "answer is",
    or the block of code or mathematics behind it, else the whole text. A correction that follows,
    "Actually ...", belongs to the statement.
    """
    if (content := boxed(text)) is not None:
        return content.strip(), True
    marks = [
        mark
        for mark in _STATED.finditer(text)
        if not is_of_another(text[max(0, mark.start() - _NEAR) : mark.start()], mark[0])
        and not _ABOUT.match(text, mark.end())
    ]
    if not marks:
        return text.strip(), False
    rest = re.sub(r"^\.{2,}\s*", "", text[marks[-1].end() :].lstrip())
    if _OPTIONS.match(rest):
        return rest.strip(), True
    if block := _BLOCK.match(rest):
        inside = " ".join(block[2].split())
        rest = f"{block[1]} {inside} {block[3]}{rest[block.end() :]}"
    sentence, *after = _SENTENCE_END.split(rest, maxsplit=1)
    if after and _CORRECTION.match(after[0]):
        return rest.strip(), True
    return sentence.strip(), True


def is_of_another(before: str, mark: str) -> bool:
    """Whether the words before a mark say that it is about another answer than the one to give;
    "I will go with this answer: B" gives it."""
    if _OTHER.search(before) is not None:
        return True
    return _THIS.search(before) is not None and not re.search(r"[:=][*_\s]*$", mark)


def boxed(text: str) -> str | None:
    """The content of the last complete \\boxed{...} of a text, its braces balanced, else None."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin, depth = start + len("\\boxed{"), 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[begin:place]
    return None
