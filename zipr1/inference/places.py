"""Where the files stand in the question of `zipr1 answer`: its placeholders, as in rows."""

from zipr1.common.errors import InputError
from zipr1.data.chats import has_placeholder, placed
from zipr1.data.placeholders import FOREIGN, check_foreign, has_number, placed_numbers
from zipr1.data.source import short


def placed_files(question: str, kinds: list[str], system: str) -> tuple[list[dict], list[int]]:
    """(the parts of the question, the files in the order in which they show them). The files, whose
    `kinds` are image or video, come first unless <image>, <image 1> or <video> name their places.

    Raises InputError for placeholders that do not name each file once, for those of other programs,
    and for any in `system`. Without files a question is a text as any other.
    """
    everything = list(range(len(kinds)))
    text = {"type": "text", "text": question}
    if not kinds:
        return [text], everything
    if has_placeholder(system) or has_number(system) or FOREIGN.search(system):
        raise InputError("--system has a placeholder of a file: write it in the question")
    parts = placed_numbers(placed(question))
    check_foreign((part["text"] for part in parts if part["type"] == "text"), "the question")
    named = [part for part in parts if part["type"] != "text"]
    if not named:
        return [*({"type": kind} for kind in kinds), text], everything
    if any("index" in part for part in named):
        return numbered(parts, named, kinds)
    if [part["type"] for part in named] != kinds:
        raise wrong(", ".join(part["type"] for part in named), kinds)
    return parts, everything


def numbered(parts: list[dict], named: list[dict], kinds: list[str]) -> tuple[list[dict], list]:
    """The same of a question with numbers: <image 2> is the second image among the files. A kind
    that no number names is in the order of its files."""
    order = []
    for kind in ("image", "video"):
        of_kind = [part for part in named if part["type"] == kind]
        if not any("index" in part for part in of_kind):
            for index, part in enumerate(of_kind):
                part["index"] = index
    for part in named:
        places = [place for place, kind in enumerate(kinds) if kind == part["type"]]
        index = part.get("index", -1)
        order.append(places[index] if 0 <= index < len(places) else -1)
    if sorted(order) != list(range(len(kinds))):
        raise wrong(", ".join(part.get("placeholder", part["type"]) for part in named), kinds)
    return [part if part["type"] == "text" else {"type": part["type"]} for part in parts], order


def wrong(named: str, kinds: list[str]) -> InputError:
    return InputError(
        f"the question names {short(named)}, the files are {', '.join(kinds)}: name each file "
        "once, in their order or all by number, or none"
    )
