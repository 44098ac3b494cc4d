"""Text as the graders compare it, in any script: Unicode normalisation, words, error rate, ROUGE.

Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan separate no words by spaces. There every
character, with its combining marks, counts as a word, so that the word error rate becomes the
character error rate and ROUGE compares characters.
"""

import unicodedata
from functools import cache

import regex

from zipr1.rewards.extra import library

_NO_SPACES = (
    r"[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}"
    r"\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}\p{scx=Myanmar}\p{scx=Tibetan}--\p{P}]"
)
_CHARACTER = rf"(?V1){_NO_SPACES}\p{{M}}*+"
_UNITS = regex.compile(rf"{_CHARACTER}|(?:(?!{_NO_SPACES})\S)++")
# Numbers with sign, fraction and operators between digits; "C++", "C#" and the mark "A-"; words;
# signs of comparison and arithmetic between spaces.
_WORDS = regex.compile(
    rf"{_CHARACTER}"
    r"|(?<![\w)\]])[-+]?(?<![\p{L}\p{N}])\p{Nd}+(?:[.,+*/^=<>×÷]\p{Nd}+)*+"
    r"(?![\p{L}\p{M}\p{N}])"
    r"|(?<!\w)\p{L}(?:[+#]+|-)(?![\w+#-])|[<>=≤≥≠]+|(?<= )[-+*×÷](?= )"
    rf"|(?:(?!{_NO_SPACES})[\p{{L}}\p{{M}}\p{{N}}])++"
)
_THOUSANDS = regex.compile(r"[1-9]\p{Nd}{0,2}(?:,\p{Nd}{3})++(?:\.\p{Nd}+)?")
_TRAILING = regex.compile(r"(?<=^[-+]?\p{Nd}+)\.0+$|(?<=^[-+]?\p{Nd}+\.\p{Nd}*[1-9])0+$")
# Signs of units, and the words for them: compared only where both texts have a unit.
_UNIT_SIGNS = {"%": "percent", "$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
_UNIT = regex.compile(rf"[%$€£¥]|\b(?:{'|'.join(_UNIT_SIGNS.values())})s?\b", regex.IGNORECASE)
_PRICE = regex.compile(r"([$€£¥])\s*([-+]?\p{Nd}[\p{Nd}.,]*)")


# Hyphens, the minus sign and the en dash; single and double quotation marks.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-")
    | dict.fromkeys("\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)
# Characters that NFKC would join to the digits before them: powers, indices and fractions.
_RAISED = regex.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_LOWERED = regex.compile(r"(?<=\d)[₀₁₂₃₄₅₆₇₈₉]+")
_FRACTION = regex.compile(r"(\d?)([¼-¾⅐-⅞])")


def composed(text: str) -> str:
    """NFKC (composed letters, half-width punctuation), without invisible format characters.

    Hyphens, dashes (except the em dash) and quotation marks have their ASCII form. Powers and
    fractions stay apart from the digits before them: 10² is 10^2, 1½ is 1 1/2.
    """
    text = _RAISED.sub(r"^\g<0>", text)
    text = _LOWERED.sub(r"_\g<0>", text)
    text = _FRACTION.sub(lambda found: f"{found[1]} {found[2]}" if found[1] else found[2], text)
    text = unicodedata.normalize("NFKC", text).replace("\N{FRACTION SLASH}", "/").translate(_PLAIN)
    return "".join(c for c in text if unicodedata.category(c) != "Cf").strip()


def normalised(text: str) -> str:
    """`composed`, with white space as one space, or as one line break where it contains one."""
    return regex.sub(r"\s++", lambda space: "\n" if "\n" in space[0] else " ", composed(text))


def folded(text: str) -> str:
    """`composed` without letter case and a final full stop, with white space as one space."""
    text = " ".join(composed(text).split())
    return text.rstrip(" .\N{IDEOGRAPHIC FULL STOP}").casefold()


def units(text: str) -> list[str]:
    """The space-separated parts of a text, or its characters where the script has no spaces."""
    return _UNITS.findall(normalised(text))


def error_rate(expected: str, completion: str) -> float:
    """Word error rate over `units`, at most 1: edit distance over the number of expected units."""
    expected, completion = units(expected), units(completion)
    # Each surplus unit is an error, so that no alignment has to be computed for much longer texts.
    if not expected or len(completion) >= 2 * len(expected):
        return float(completion != expected)
    return min(1.0, library("jiwer").wer(" ".join(expected), " ".join(completion)))


def words(text: str, units: bool = False) -> list[str]:
    """The tokens of ROUGE: letters and digits, case-folded; English words above 3 letters stemmed.

    For English text equal to rouge_score's own tokenizer, which drops every letter outside a-z.
    A number is one token with its sign, "-5", "3.5" and "1+1", and so are "C++" and "A-"; signs of
    comparison are tokens. With `units` the signs of units are words: $5 is "5 dollar".
    """
    text = normalised(text)
    if units:
        text = _PRICE.sub(r"\2 \1", text)
        for sign, word in _UNIT_SIGNS.items():
            text = text.replace(sign, f" {word} ")
    tokens = _WORDS.findall(text.casefold())
    tokens = [t.replace(",", "") if _THOUSANDS.fullmatch(t) else t for t in tokens]
    tokens = [_TRAILING.sub("", t) for t in tokens]
    return [_stemmer().stem(t) if len(t) > 3 and t.isascii() and t.isalnum() else t for t in tokens]


@cache
def _stemmer():
    return library("nltk.stem.porter").PorterStemmer()


def rouge(expected: str, completion: str) -> float:
    """The mean F of ROUGE-1, ROUGE-2 and ROUGE-L over `words`; 1 for equal texts.

    ROUGE-2, which counts pairs of words, is left out where a single word is expected.
    """
    if folded(expected) == folded(completion):
        return 1.0  # also of punctuation or emoji only, which have no words
    units = all(map(_UNIT.search, (expected, completion)))
    tokens, found = words(expected, units), words(completion, units)
    scores = [_ngrams(1, tokens, found), _longest_common(tokens, found)]
    if len(tokens) > 1:
        scores.append(_ngrams(2, tokens, found))
    return sum(scores) / len(scores)


class _Split:
    """Tokens joined by spaces in the form in which rouge_score accepts a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def _ngrams(n: int, expected: list[str], completion: list[str]) -> float:
    scorer = library("rouge_score.rouge_scorer").RougeScorer([f"rouge{n}"], tokenizer=_Split())
    return scorer.score(" ".join(expected), " ".join(completion))[f"rouge{n}"].fmeasure


def _longest_common(expected: list[str], completion: list[str]) -> float:
    """ROUGE-L, by rapidfuzz: the table of rouge_score, in Python, takes minutes for long texts."""
    length = library("rapidfuzz.distance").LCSseq.similarity(expected, completion)
    precision, recall = length / max(1, len(completion)), length / max(1, len(expected))
    return library("rouge_score.scoring").fmeasure(precision, recall)
