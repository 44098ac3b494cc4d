"""Multiple choice: the option letters that a text states."""

import re

from zipr1.rewards.statement import stated
from zipr1.rewards.text import normalised

_MARKUP = re.compile(
    r"\*+|`+|\$+|\\[()\[\]]|\\(?:text|textbf|mathbf|mathrm|bf)\b|[{}]|</?[a-z]{1,10}>"
)
_QUOTES = " \t\n\"'_!\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
_CIRCLED = re.compile("[\N{CIRCLED LATIN CAPITAL LETTER A}-\N{CIRCLED LATIN CAPITAL LETTER Z}]")
_SEPARATOR = r"(?:\s*[,;&、+]\s*(?:and\s+)?|\s+and\s+|\s*和\s*)"
# One letter with a bracket, where lower case counts, or one capital.
_LETTER = r"(?:\(?[A-Za-z]\)|\[[A-Za-z]\]|[A-Z][.)]?)"
_SET = re.compile(rf"{_LETTER}(?:{_SEPARATOR}{_LETTER})*\.?")
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
_OPTION = r"(?:the\s+)?(?:(?:correct|right|best)\s+)?(?:option|choice|answer)"
_NAMED = re.compile(rf"(?:{_OPTION}|选项?|选择)\s*(?=\(?[A-Z]\b|\([a-z]\))", re.IGNORECASE)
_CHOSEN = re.compile(
    rf"(?:I\s+(?:would\s+)?(?:choose|pick|select|go\s+with)\s+|[Ii]t(?:'s|\s+is)\s+)?(?:{_OPTION}\s+)?"
    rf"(\([A-Za-z]\)|[A-Z])(?:\s+is\s+(?:{_OPTION}|(?:correct|right)))?\s*\.?"
)
_LABEL = re.compile(
    r"(?:^|[\s(])([A-Z])\)|^[ \t]*([A-Z])[.:]\s|(?<!\S)\(?([a-h])\)|(?<!\S)\[([A-Za-h])\]",
    re.MULTILINE,
)
# The labels of options in one line: "A. a cat B. a dog", "A: a cat, B: a dog", "A.猫B.狗".
_IN_LINE = re.compile(r"(?<![A-Za-z.])([A-Z])(?:[.:、]|\s+[-–—]\s)")
_SPACED = re.compile(r"([(\[])\s*([A-Za-z])\s*(?=[)\]])")
_BRACKETED = re.compile(r"[(\[]([^()\[\]]*)[)\]]\.?")
_ALTERNATIVES = re.compile(r"[(\[]?[A-Za-z][)\].,;]*\s*(?:or\b|/|\||或)\s*[(\[]?[A-Za-z]\b(?!')")


def letters(text: str) -> frozenset[str] | None:
    """The options that a text states, as capitals; None where it states none, or alternatives.

    One option: "B", "B.", "**B**", "(b)", "B) text", "B. text", "\\boxed{B}", "Answer: B",
    "The answer is B.", "Option B", "B is correct". Several: "A, C", "[A, C]", "A and C", "AC".
    None for "A or B", for a list of the options, also in one line, for the text of an option
    without its letter, and for a bare lower-case letter, which may be a word.
    """
    text, marked = stated(normalised(_circled(text)))
    text = _MARKUP.sub("", text).replace("\N{IDEOGRAPHIC FULL STOP}", ".").strip(_QUOTES)
    text = _SPACED.sub(r"\1\2", text)
    if _ALTERNATIVES.match(text):
        return None
    if marked and re.fullmatch(r"[a-z][.)]?", text):
        return frozenset(text[0].upper())
    if _RUN.fullmatch(text) and list(text) == sorted(set(text)):
        return frozenset(text)
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
    if found := (_CHOSEN.fullmatch(text) or _REASON.fullmatch(text)):
        return frozenset(found[1].strip("()").upper())
    found = _FIRST.match(text)
    if not found:
        return None
    rest = text[found.end() :]
    if found[0].endswith((", ", "; ")) and re.match(r"\(?[A-Z]\b", rest):
        return None
    return frozenset((found[1] or found[2] or found[3]).upper())


def _circled(text: str) -> str:
    """Circled capitals as plain ones, apart from what follows."""
    return _CIRCLED.sub(lambda found: f"({normalised(found[0])}) ", text)
