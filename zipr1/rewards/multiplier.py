"""What multiplies a number, from the text behind it: "million", "dozen", "千", the k of 5k."""

import re
from collections.abc import Iterable
from unicodedata import normalize

WORDS = {
    "dozen": 12.0, "hundred": 1e2, "thousand": 1e3, "lakh": 1e5, "million": 1e6, "mn": 1e6,
    "crore": 1e7, "billion": 1e9, "bn": 1e9, "trillion": 1e12, "quadrillion": 1e15,
    "mln": 1e6, "mio": 1e6, "millionen": 1e6, "millón": 1e6, "millones": 1e6, "milhão": 1e6,
    "milhões": 1e6, "milione": 1e6, "milioni": 1e6, "miljoen": 1e6, "milyon": 1e6,
    "mrd": 1e9, "mld": 1e9, "milliard": 1e9, "milliarde": 1e9, "milliarden": 1e9, "miljard": 1e9,
    "milyar": 1e9, "tausend": 1e3, "tsd": 1e3,
    "тыс": 1e3, "тысяча": 1e3, "тысячи": 1e3, "тысяч": 1e3, "млн": 1e6, "миллион": 1e6,
    "миллиона": 1e6, "миллионов": 1e6, "млрд": 1e9, "миллиард": 1e9, "миллиарда": 1e9,
    "миллиардов": 1e9,
    "juta": 1e6, "ribu": 1e3, "miliar": 1e9, "nghìn": 1e3, "ngàn": 1e3, "triệu": 1e6, "tỷ": 1e9,
    "ألف": 1e3, "آلاف": 1e3, "مليون": 1e6, "مليار": 1e9, "lac": 1e5,
    "सौ": 1e2, "हज़ार": 1e3, "हजार": 1e3, "लाख": 1e5, "करोड़": 1e7,
}  # fmt: skip
CHARACTERS = {
    "十": 10.0, "百": 1e2, "千": 1e3, "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8,
    "拾": 10.0, "佰": 1e2, "仟": 1e3, "십": 10.0, "백": 1e2, "천": 1e3, "만": 1e4, "억": 1e8,
    "พัน": 1e3, "หมื่น": 1e4, "แสน": 1e5, "ล้าน": 1e6,
}  # fmt: skip
# As `numeric.plain` writes the text: NFKC, which separates the dot of a Devanagari letter.
_FACTORS = {normalize("NFKC", word): factor for word, factor in (WORDS | CHARACTERS).items()}
LETTERS = {"k": 1e3, "m": 1e6, "mm": 1e6, "b": 1e9, "t": 1e12}  # of an amount of money


def _any(words: Iterable[str]) -> str:
    """A pattern that matches one of the words, in NFKC, the longest first."""
    return "|".join(sorted((normalize("NFKC", word) for word in words), key=len, reverse=True))


_END = r"(?![^\W\d_]|[\u093c-\u094d])"  # no further letter or Devanagari vowel sign
_WORD = re.compile(rf"[\s-]*({_any(WORDS)})s?{_END}", re.IGNORECASE)
# 千克 is a kilogram, 百帕 a hectopascal, 百分点 a percentage point.
_CHARACTER = re.compile(rf"\s*({_any(CHARACTERS)})(?![克米瓦卡赫帕伏焦分])")
_LETTERS = re.compile(r"\s*(mm|[kmbt])(?![A-Za-z]|-[A-Za-z])", re.IGNORECASE)  # not T-shirt
_THOUSAND = re.compile(r"[kK](?![A-Za-z])")
# Mega or metres, billions or bytes, a thousandth; 兆 has two values. 300 K and 5 T are units.
# Billions of other languages are 1e9 or 1e12, a gross may be a weight.
_AMBIGUOUS = re.compile(
    r"\s*(?:(?:[MBb]|MM|MN|mil|tn)(?![A-Za-z])|[ ]k(?![A-Za-z])|[兆조])"
    r"|T(?![A-Za-z])"
    rf"|\s*(?i:mill|cr|gross|tens?|billón|billones|billionen?|bilhão|bilhões|quintillions?|mille)"
    rf"{_END}|\s*(?i:hundreds|thousands|millions|dozens|lakhs)\s+of\s+"
    r"(?i:dozens|hundreds|thousands|millions)"
    r"|[\s-]*(?i:hundred|thousand|million|billion|trillion)th"
)
# 2 thirds, 3 quarters, 5 and a half, 5 per mille: parts, or counts of coins or half-years.
_PART = r"(?:half|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|twelfth|hundredth)"
_PARTS = re.compile(
    rf"[\s-]*(?:halves|{_PART}s(?![A-Za-z])|(?:and|&)\s+(?:an?|one|two|three)[\s-]+{_PART}"
    rf"|(?:and[\s-]+)?(?:an?|one)[\s-]+half(?![A-Za-z])|half(?![A-Za-z-])"
    r"|‰|per\s?(?:mil(?:le|l)?|thousand)(?![A-Za-z]))",
    re.IGNORECASE,
)


def multiplier(following: str, money: bool) -> float | None:
    """The factor of a number with `following` behind it; 1 where there is none.

    money: a currency sign stands before the number, so that M means a million. None where the text
    is ambiguous: "3M" may be three metres.
    """
    if money and (found := _LETTERS.match(following)):
        return LETTERS[found[1].lower()]
    if _THOUSAND.match(following):
        return LETTERS["k"]
    if _AMBIGUOUS.match(following) or _PARTS.match(following):
        return None
    factor = 1.0
    while found := (_WORD.match(following) or _CHARACTER.match(following)):
        factor *= _FACTORS[found[1].lower()]
        following = following[found.end() :]
    rest = factor != 1 and (_AMBIGUOUS.match(following) or _PARTS.match(following))
    return None if rest else factor
