"""Multiple choice: the option letters that a text states."""

import re

from zipr1.rewards.statement import stated
from zipr1.rewards.text import normalised

_MARKUP = re.compile(
    r"\*+|`+|\$+|\\[()\[\]]|\\(?:text|textbf|mathbf|mathrm|bf)\b|[{}]|</?[a-z]{1,10}>"
)
_QUOTES = " \t\n\"'_!,;#【】「」『』«»"
_CIRCLED = re.compile("[\N{CIRCLED LATIN CAPITAL LETTER A}-\N{CIRCLED LATIN CAPITAL LETTER Z}]")
_SEPARATOR = r"(?:\s*[,;&、+]\s*(?:and\s+)?|\s+and\s+|\s*和\s*)"
# One letter with a bracket, where lower case counts, or one capital.
_LETTER = r"(?:\(?[A-Za-z]\)|\[[A-Za-z]\]|[A-Z][.)]?)"
_SET = re.compile(rf"{_LETTER}(?:{_SEPARATOR}{_LETTER})*\.?")
# Options below each other, also as a list with bullets.
_LINES = re.compile(rf"(?:[-•]\s*)?{_LETTER}(?:\n\s?(?:[-•]\s*)?{_LETTER})+")
_SEVERAL = re.compile(
    r"(?:(?:both|(?:the\s+)?(?:correct|right)\s+(?:options|choices|answers)\s+are"
    r"|answers:|(?:options|choices))\s+)?"
    rf"(?-i:(?P<set>{_LETTER}(?:{_SEPARATOR}{_LETTER})+))"
    r"(?:\s+are\s+(?:both\s+)?(?:the\s+)?(?:correct|right|true)"
    r"(?:\s+(?:options|choices|answers))?)?\.?",
    re.IGNORECASE,
)
_RUN = re.compile(r"[A-Z]{2,10}")
# A letter, and what sets it apart from a word: "B)", "(b) text", "B. text", "B - text".
_FIRST = re.compile(
    r"\(?([A-Za-z])\)|\[([A-Za-z])\]|([A-Z])(?:[).:、]|\s*$|\s*\n|\s+[-–—]\s|[,;](?:\s|(?=[一-鿿])))"
)
_REASON = re.compile(
    r"(\(?[A-Za-z]\)?),?"
    r"(?:\s+(?:because|since|as|which|where|so|due|for)\b|\s*(?:因为|由于)).*",
    re.S,
)
_OPTION = r"(?:the\s+)?(?:(?:correct|right|best)\s+)?(?:option|choice|answer|letter)"
_NAMED = re.compile(
    rf"(?:{_OPTION}|(?:[故应该因此所以]+\s*,?\s*)?(?:选项?|选择)\s*:?)\s*"
    r"(?=\(?[A-Z]\b|\([a-z]\)|[A-Z][一-鿿])",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"(?:I(?:'d|\s+would)?\s+(?:choose|pick|select|go\s+with|think|believe|guess|say)\s+"
    r"(?:it(?:'s|\s+is)\s+)?"
    r"|[Ii]t(?:'s|\s+is|\s+(?:must|should)\s+be)\s+)?"
    rf"(?:{_OPTION}\s+)?(\([A-Za-z]\)|[A-Z])"
    rf"(?:\s+(?:is|seems|looks)\s+(?:{_OPTION}|(?:correct|right|true))"
    r"(?:,?\s+(?:because|since|as)\b.*)?)?\s*\.?",
    re.DOTALL,
)
_CHINESE = re.compile(r"([A-Z])\s*(?:选?项)?(?:是?正确的?|是对的|是答案|是正确答案)?\.?")
_LOWER = re.compile(rf"{_OPTION}\s+([a-z])(?:\s+is\s+(?:correct|right|true))?[.)]?", re.IGNORECASE)
_THEREFORE = re.compile(r"(?:so|thus|hence|therefore)\b,?\s*(?=\(?[A-Za-z]\b)", re.IGNORECASE)
# "A: B", which goes on from "Q: ... A:".
_AFTER_A = re.compile(r"A:\s*(?=\([A-Za-z]\)|[A-Z](?:[.):]|\s*$))")
_GLOSSED = re.compile(
    r"([A-Z])\s*\((?!\s*(?:or|and|not|maybe|perhaps|possibly|wrong|incorrect|false)\b)"
    r"([^()]{2,})\)\.?",
)
_WRONG = re.compile(
    r"[\s,;-]*(?:(?:is|was|seems)\s+(?:[a-z]+ly\s+)?(?:not|wrong|incorrect|false)\b|isn't\b"
    r"|(?:cannot|can't)\s+be\s+(?:right|correct|true|the)\b)"
)
_ANOTHER = r"(?:it(?:'s|\s+is)\s+|no\b,?\s*|rather\s+|should\s+be\s+|must\s+be\s+)*"
# "A, no wait, B", "A. Actually B", "A, maybe C", "A. No, B."
_CORRECTED = re.compile(
    r"\b(?i:(?:wait|actually|sorry|correction|oops|scratch\s+that|second\s+thoughts?|i\s+mean"
    rf"|my\s+mistake|maybe|perhaps|possibly|or\s+rather)[\s,.:;!-]*{_ANOTHER})"
    r"\(?[A-Z](?=[).,;!?]|\s*$|\s+(?:is|because|since)\b)"
    r"|\b(?i:no)[,.:;!]\s*\(?[A-Z]\)?\s*[.!]?\s*$"
)
# Behind "A," and "I,", which may be words.
_REMARK = re.compile(
    r"\s*(?:$|[一-鿿]|not\s+\(?[A-Z]\b|(?:I\s+(?:think|believe|guess)|I'm|it|this|that|there"
    r"|because|since|as|definitely|certainly|clearly|obviously|for\s+sure|of\s+course)\b)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:^|[\s(])([A-Z])\)|^[ \t]*([A-Z])[.:]\s|(?<!\S)\(?([a-h])\)|(?<!\S)\[([A-Za-h])\]",
    re.MULTILINE,
)
# The labels of options in one line: "A. a cat B. a dog", "A: a cat, B: a dog", "A.猫B.狗".
_IN_LINE = re.compile(r"(?<![A-Za-z.])([A-Z])(?:[.:、]|\s+[-–—]\s)(?!\s*$)")
_SPACED = re.compile(r"([(\[])\s*([A-Za-z])\s*(?=[)\]])")
_BRACKETED = re.compile(r"[(\[]([^()\[\]]*)[)\]]\.?")
_ALTERNATIVES = re.compile(
    r"[(\[]?[A-Za-z][)\].,;]*\s*(?:[-–—]\s*)?(?:or\b|/|\||或)\s*[(\[]?[A-Za-z]\b(?!')"
)


def letters(text: str) -> frozenset[str] | None:
    """The options that a text states, as capitals; None where it states none, or alternatives.

    One option: "B", "B.", "**B**", "(b)", "B) text", "B. text", "\\boxed{B}", "Answer: B",
    "The answer is B.", "Option B", "B is correct". Several: "A, C", "[A, C]", "A and C", "AC".
    None for "A or B", "A is wrong", "A, no wait, B", for a list of the options, also in one line,
    for the text of an option without its letter, and for a bare lower-case letter, which may be a
    word.
    """
    text, marked = stated(normalised(_circled(text)))
    text = _MARKUP.sub("", text).replace("\N{IDEOGRAPHIC FULL STOP}", ".").strip(_QUOTES)
    text = _SPACED.sub(r"\1\2", text)
    text = _THEREFORE.sub("", _AFTER_A.sub("", text, count=1), count=1)
    if _ALTERNATIVES.match(text) or _CORRECTED.search(text):
        return None
    if marked and re.fullmatch(r"[a-z][.)]?", text):
        return frozenset(text[0].upper())
    if _RUN.fullmatch(text) and list(text) == sorted(set(text)):
        return frozenset(text)
    if found := _LOWER.fullmatch(text):
        return frozenset(found[1].upper())
    if _LINES.fullmatch(text):
        text = re.sub(r"\n\s?(?:[-•]\s*)?", ", ", re.sub(r"^[-•]\s*", "", text))
    if several := _SEVERAL.fullmatch(text):
        text = several["set"]
    if inside := _BRACKETED.fullmatch(text):
        inner = re.sub("[\"']", "", inside[1]).strip()
        text = inner if _SET.fullmatch(inner) else text
    if _SET.fullmatch(text):
        return frozenset(re.findall("[A-Z]", re.sub(_SEPARATOR, ",", text).upper()))
    return _one(text)


def _one(text: str) -> frozenset[str] | None:
    """The one option that a text begins with or names."""
    if len({"".join(found).upper() for found in _LABEL.findall(text)}) > 1:
        return None  # the options are repeated
    if (labels := _IN_LINE.findall(text))[:1] == ["A"] and "B" in labels:
        return None
    text = _NAMED.sub("", text, count=1) if _NAMED.match(text) else text
    for pattern in (_CHOSEN, _REASON, _CHINESE, _GLOSSED):
        if found := pattern.fullmatch(text):
            return frozenset(found[1].strip("()").upper())
    found = _FIRST.match(text)
    if not found:
        return None
    rest = text[found.end() :]
    # "A: wrong"; but "B. Wrong" may be the text of the option.
    judged = not found[0].endswith((".", ")", "]")) and re.match(r"\s*(?:wrong|incorrect)\b", rest)
    if judged or _WRONG.match(rest) or re.match(r"\s*(?:,|;|&|and\b)\s*[(\[]?[A-Z]\b", rest):
        return None
    if found[0].endswith(".") and re.match(r"[A-Z]\.", rest):
        return None  # A.B.
    if found[0].endswith((",", ";", ", ", "; ")):
        word = found[3] in ("A", "I") and not _REMARK.match(rest)
        if word or re.match(r"\(?[A-Z]\b(?!')(?!\s+(?:think|believe|guess)\b)", rest):
            return None
    return frozenset((found[1] or found[2] or found[3]).upper())


def _circled(text: str) -> str:
    """Circled capitals as plain ones, apart from what follows."""
    return _CIRCLED.sub(lambda found: f"({normalised(found[0])}) ", text)
