"""The one number that a text states: digits of any script among words and units, or LaTeX."""

import math
import re
import unicodedata

from zipr1.rewards.latex import latex_value
from zipr1.rewards.multiplier import multiplier
from zipr1.rewards.statement import stated
from zipr1.rewards.text import normalised
from zipr1.rewards.wording import without_words

CURRENCY = "$"  # stands for every currency sign
LONGEST = 2000  # characters of a statement in which a number is looked for
EXACT = 2**53  # above it a float cannot tell two integers apart
_ASCII = str.maketrans({"٫": ".", "٬": ",", "٪": "%", "∕": "/"})
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3}|_{1,2}|`)(?![\s*])([^*_`\n]{1,200})(?<!\s)\1(?![\w*])")
_PERCENT = re.compile(r"%|per ?cent(?:age)?s?\b|\bpct\b|百分之", re.IGNORECASE)
_MONEY = re.compile(r"\$\s*[-+]?\s*[.\d]")
_SYMBOL = re.compile(r"\s*[kKMBT](?![A-Za-z])")  # of a formula: 5k is 5 times k
_RANGE = re.compile(r"\d\s*[-:]\s*\d")
_BRACKETS = re.compile(r"[(\[{]([^()\[\]{}]*)[)\]}]")
_NO_NUMBER = re.compile(r"[<>≤≥≠±∓∞&]")
_FORMULA = re.compile(r"\\[A-Za-z]|[\^√π|]")
# Left of an equals sign: "x", "2 + 3", "The total is 2 + 3".
_LEFT_SIDE = re.compile(
    r"(?:[A-Za-z][A-Za-z_ ]{0,40}:?)?(?:[\d\s.,+\-*/^()×÷·]|(?<=[\d ])x(?= ?\d))*"
)
_ARITHMETIC = re.compile(r"[\d\s.+\-*/^()]*[+*^][\d\s.+\-*/^()]*")
# Digits with separators, as far as they reach: "1,234.5", "1 234", and also "0,100" or "1.2.3".
_DIGITS = r"(?:\d|[.,](?=\d))(?:\d|[.,](?=\d)|[ ](?=\d{3}(?!\d)))*+"
_SEPARATED = re.compile(r"\d+(?:\.\d+)?|\.\d+|[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+)(?:\.\d+)?")
_NUMBER = re.compile(
    r"(?<![A-Za-z\d\u0370-\u052f])(?<!\d[.,])(?P<sign>(?<![\w)\]])[-+]\s*)?"
    r"(?:(?P<whole>\d+)\s+(?=\d+\s*/))?"
    rf"(?P<digits>{_DIGITS})"
    rf"(?:\s*/\s*(?P<divisor>{_DIGITS}))?"
    r"(?P<power>[eE][-+]?\d+(?![\w.])|\s*(?:[×x*·]|\\times|\\cdot)\s*10\s*\^\s*\{?[-+]?\d+\}?)?"
)


def values(text: str) -> tuple[float, ...]:
    """The number that a text states, in both readings of a percentage: "50%" is 0.5 and 50.

    () where there is none, or more than one: a range, a ratio, a time, an interval, a set, an
    equation in LaTeX, "5 or 6"; where the words do not state it, "at least 5"; and where the
    separators are ambiguous, "0,100", "1,5", "1.234,5", or what stands behind the number: "3M".
    Commas and spaces between groups of three digits are read as thousands, and "5k", "2 dozen" and
    "3千" as `multiplier` says. An integer above 2**53, which a float may not hold, is an int.
    """
    text, _ = stated(plain(text))
    if len(text) > LONGEST or _tuple(text) or (text := without_words(text)) is None:
        return ()
    right = text.rpartition("=")[2]
    if _RANGE.search(right):
        return ()
    percent = _PERCENT.search(right) is not None
    number = _number(_PERCENT.sub(" ", text))
    if number is None or not math.isfinite(number):
        return ()
    if not percent:
        return (number,)
    return (number / 100, number)


def _tuple(text: str) -> bool:
    """Whether brackets hold more than one number: a pair, an interval, a set."""
    return any(re.search("[,;]", inside) for inside in _BRACKETS.findall(text))


def plain(text: str) -> str:
    """Digits, signs, fractions and powers of any script in ASCII, without markup."""
    text = normalised(text).translate(_ASCII)
    text = "".join(str(unicodedata.decimal(c, c)) for c in text)
    text = text.replace("{,}", ",").replace(",\\!", ",").replace("\\%", "%").replace("\\$", "")
    text = re.sub(r"(?<!\d)\d{1,3}(?:'\d{3})+(?!\d)", lambda m: m[0].replace("'", ""), text)
    text = re.sub(r"(?<=[\d)}])\s*\*\*\s*(?=[-+(\d])", "^", text)
    text = re.sub(r"\.{2,}", " … ", text)  # "So...5"
    text = re.sub(r"\\[,;:! ]|~", " ", text)
    text = re.sub(r"\\(?:left|right|displaystyle|mathbf|bf)\b", "", text)
    text = re.sub(r"\\(?:text|textbf|mathrm|operatorname)\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\(?:degree|circ)\b", " ", text)
    text = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r" \1/\2", text)
    text = re.sub(r"(?<=[A-Za-zµΩ])\s*\^\s*\{?-?\d+\}?", "", text)  # of a unit: m^2
    return _EMPHASIS.sub(r"\2", text)


def _number(text: str) -> float | None:
    """The number of a plain text, or of the one formula between dollar signs or \\( \\) in it."""
    formulas = re.findall(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", text)
    if formulas:
        outside = re.sub(r"\$[^$]+\$|\\\(.+?\\\)|\\\[.+?\\\]", " ", text)
        formula = "".join(formulas[0])
        if len(formulas) > 1 or re.search(r"\d", outside) or "=" in formula:
            return None
        text = formula
    text = "".join(CURRENCY if unicodedata.category(c) == "Sc" else c for c in text)
    money = _MONEY.search(text) is not None and not formulas
    text = text.replace(CURRENCY, " ").strip().rstrip(".").strip()
    if "=" in text:
        *left, text = (part.strip() for part in text.split("="))
        if not all(map(_LEFT_SIDE.fullmatch, left)) or "\\" in text:
            return None
    found = list(_NUMBER.finditer(text))
    rest = _NUMBER.sub(" ", text)
    if not _FORMULA.search(rest) and not _NO_NUMBER.search(rest) and len(found) == 1:
        following = text[found[0].end() :]
        if formulas and _SYMBOL.match(following):
            return None
        return _read(found[0], following, money)
    if _FORMULA.search(text) or _ARITHMETIC.fullmatch(text):
        return _formula(text)
    return None


def _read(found: re.Match, following: str, money: bool) -> float | None:
    """One match of _NUMBER as a number, in view of the text behind it; money: as `multiplier`."""
    if re.match(r"[A-Za-z]\d|!|\s*=|[xX][\dA-Fa-f]+(?!\w)", following):
        return None  # 0x10, a factorial, the left side of an equation, 0xFF
    whole, digits, divisor = (_float(found[name]) for name in ("whole", "digits", "divisor"))
    if digits is None or (found["divisor"] and not divisor):
        return None
    number = digits if whole is None and divisor is None else (whole or 0) + digits / (divisor or 1)
    if power := found["power"]:
        # As one literal, so that 3.5 x 10^-4 is the float that 3.5e-4 is.
        exponent = re.sub(r"[{}\s]", "", re.split(r"[eE^]", power)[-1])
        number = float(f"{number!r}e{exponent}") if "e" not in repr(number) else math.nan
    factor = multiplier(following, money)
    if factor is None:
        return None
    number = number if factor == 1 else number * factor
    return -number if found["sign"] and found["sign"].startswith("-") else number


def _float(digits: str | None) -> float | None:
    """Digits with separators of thousands; None for ambiguous separators."""
    if digits is None or not _SEPARATED.fullmatch(digits):
        return None
    digits = re.sub("[, ]", "", digits)
    value = float(digits)
    return int(digits) if digits.isdecimal() and EXACT < value < 1e300 else value


def _formula(text: str) -> float | None:
    """A root, a power, a logarithm, a sum ... by math-verify."""
    if "," in text or _NO_NUMBER.search(text) or re.search(r"(?<![_\d])\d+ +\d", text):
        return None
    text = re.sub(r"\^\s*([-+]?\d+)", r"^{\1}", text.strip())
    if unit := re.search(r"(?<=[\s\d)}])[A-Za-z]+[.)]?$", text):
        if multiplier(unit[0], money=False) != 1:
            return None
        text = text[: unit.start()]
    if re.search("[A-Za-df-z]", re.sub(r"\\[A-Za-z]+", "", text)):
        return None  # a free symbol, an environment or a text; e is Euler's number
    text = re.sub(r"√\s*\(?(\d+(?:\.\d+)?)\)?", r"\\sqrt{\1}", text).replace("π", r"\pi ")
    return latex_value(text.strip())
