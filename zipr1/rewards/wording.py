"""Words and dashes around a number that change its value: "minus 5", "at least 5", "Cars - 5"."""

import re

_FIRST = r"[-+$]?\s*\.?\d"  # how a number begins
_BOUND = re.compile(
    # "less than 5", "at least 5", "over 5", "not 5", "cannot be 5"
    r"\b(?:(?:less|more|fewer|greater|larger|smaller|bigger|higher|lower|longer|shorter|other"
    r"|rather)\s+than|at\s+(?:least|most)|(?<!adds )(?<!add )(?<!sums )(?<!comes )(?<!adding )up\s+to"
    r"|(?<!left )over|under|above|below|beyond"
    rf"|exceed(?:s|ing)?)\s+{_FIRST}"
    rf"|(?:\b(?:not|never|neither|nor|cannot)|n't)\s+(?:equal\s+to\s+|(?!but\b)[^\W\d]+\s+)?{_FIRST}"
    r"|\b(?:don't|do\s+not)\s+(?:think|believe)\b|\bor\s+equal\s+to\b"
    # "5 or more", "5+", "10 below zero", "5 is wrong"
    r"|\d\s*(?:[^\W\d]+\s+)?or\s+(?:more|less|fewer|above|below|over|under|higher|lower)\b"
    r"|\d\s*(?:[^\W\d]+\s+)?(?:at\s+(?:least|most)|(?:minimum|maximum)$)"
    r"|\d\s*\+(?!\s*[-\d({$.\\√π|a-z])|\d\+\s+[a-z]{2}|\d\s+and\s+(?:up|above|over)\b"
    r"|\d[^.\d\n]{0,20}\b(?:below|under)\s+(?:zero|freezing)\b"
    r"|\d[^.,;\d\n]{0,20}(?:\bis\s+(?:not|wrong|incorrect|false)\b|\bisn't\b)"
    # "twenty 5", "five point 5"
    r"|\b(?:(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million|billion)"
    r"(?:\s+and)?[\s-]+\d"
    r"|\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten)"
    r"\s+(?:point|minus|plus|times)\s+\d",
    re.IGNORECASE,
)
_FUNCTION = re.compile(
    r"(?<![A-Za-z\\])(?:sqrt|cbrt|root|a?(?:rc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|abs|floor"
    r"|ceil|fact|factorial|pow|max|min|sum|prod)\(\s*[-+]?[\d.]"
    r"|(?<![A-Za-z\\])(?:sqrt|sin|cos|tan|log|ln)\s+[-+]?[\d.]",
    re.IGNORECASE,
)
_ROOT = re.compile(r"(?<![A-Za-z\\])sqrt\s*\(\s*(\d+(?:\.\d+)?)\s*\)", re.IGNORECASE)
_MINUS = re.compile(r"\b(?:minus|negative)\s+(?=\$?\s*\.?\d)", re.IGNORECASE)
# A dash between spaces behind a word, and a dash with a space behind it at the start of a line.
_DASH = re.compile(r"(?<![^\W\d_])([^\W\d_]+)( ?[)*:]?) - (?=\$?\.?\d)")
_BULLET = re.compile(r"(?:^|\n) ?[-+] +\$?[\d.,]+ ?[A-Za-z]{4,}")
# Words behind which a dash is a sign, or may be one.
_BEFORE_A_SIGN = re.compile(
    r"is|are|was|were|be|equals?|of|to|than|about|approximately|roughly|around|at|from|by|and|or",
    re.IGNORECASE,
)
_EXCLAIMED = re.compile(r"(?:it|that|this|there|they|we|he|she|the|so)\b[^=^*/+]*!", re.IGNORECASE)


def without_words(text: str) -> str | None:
    """A text in which "minus 5" is -5, sqrt(2) is √2 and a dash behind a word is no sign.

    None where the text does not state the number in it: "at least 5", "not 5", "5+", "10 below
    zero", "log(5)", and where a dash may be a sign or a bullet: "x - 5", "- 5 apples".
    """
    text = _ROOT.sub(r"√(\1)", text)
    if _BOUND.search(text) or _FUNCTION.search(text) or _BULLET.search(text):
        return None
    for word, _ in _DASH.findall(text):
        if len(word) == 1 or _BEFORE_A_SIGN.fullmatch(word):
            return None
    text = _MINUS.sub("-", _DASH.sub(r"\1\2 : ", text))
    return text[:-1] if _EXCLAIMED.fullmatch(text) else text
