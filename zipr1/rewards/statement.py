"""Where a completion states its answer: in \\boxed{...}, or behind "the answer is"."""

import re

# "Final answer: 7", "the correct option is (B)", "Answer = 7", and the same in Chinese.
_STATED = re.compile(
    r"(?:\b(?:answer|option|choice)\b[*_`]*\s*(?:\b(?:is|would be|should be)\b[*_`]*\s*[:=]?|[:=])"
    r"|答案\s*(?:是|为|:|选)\s*:?)[*_`]*\s*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？\n]")


def stated(text: str) -> tuple[str, bool]:
    """The part of a text that states its answer, and whether the text marks it as the answer.

    The content of the last \\boxed{...}, else the rest of the sentence behind the last "answer is",
    else the whole text.
    """
    if (content := boxed(text)) is not None:
        return content.strip(), True
    marks = list(_STATED.finditer(text))
    if not marks:
        return text.strip(), False
    rest = text[marks[-1].end() :].lstrip()
    return _SENTENCE_END.split(rest, maxsplit=1)[0].strip(), True


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
