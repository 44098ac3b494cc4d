"""What multiplies a number, from the text behind it: "million", "dozen", "千", the k of 5k."""

import re

WORDS = {
    "dozen": 12.0, "hundred": 1e2, "thousand": 1e3, "lakh": 1e5, "million": 1e6, "mn": 1e6,
    "crore": 1e7, "billion": 1e9, "bn": 1e9, "trillion": 1e12,
}  # fmt: skip
CHARACTERS = {
    "十": 10.0, "百": 1e2, "千": 1e3, "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8,
    "백": 1e2, "천": 1e3, "만": 1e4, "억": 1e8,
}  # fmt: skip
LETTERS = {"k": 1e3, "m": 1e6, "mm": 1e6, "b": 1e9, "t": 1e12}  # of an amount of money
_WORD = re.compile(rf"[\s-]*({'|'.join(WORDS)})s?(?![A-Za-z])", re.IGNORECASE)
# 千克 is a kilogram, 百帕 a hectopascal, 百分点 a percentage point.
_CHARACTER = re.compile(rf"\s*([{''.join(CHARACTERS)}])(?![克米瓦卡赫帕伏焦分])")
_LETTERS = re.compile(r"\s*(mm|[kmbt])(?![A-Za-z])", re.IGNORECASE)
_THOUSAND = re.compile(r"[kK](?![A-Za-z])")
# Mega or metres, billions or bytes, a thousandth; 兆 has two values. 300 K and 5 T are units.
_AMBIGUOUS = re.compile(
    r"\s*(?:(?:[MBb]|MN|mil|tn)(?![A-Za-z])|[ ]k(?![A-Za-z])|[兆조])"
    r"|T(?![A-Za-z])"
    r"|[\s-]*(?:hundred|thousand|million|billion|trillion)th"
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
    if _AMBIGUOUS.match(following):
        return None
    factor = 1.0
    while found := (_WORD.match(following) or _CHARACTER.match(following)):
        factor *= (WORDS | CHARACTERS)[found[1].lower()]
        following = following[found.end() :]
    return None if _AMBIGUOUS.match(following) and factor != 1 else factor
