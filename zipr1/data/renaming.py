"""`columns`: which columns of a data set stand for zipr1's own, as prompt=question,answer=solution."""

from difflib import get_close_matches

from zipr1.common.errors import InputError
from zipr1.common.settings import nearest

# What a column can be renamed to: the names that rows are read by, and "id".
NAMES = (
    *("prompt", "answer", "completion", "solution", "image", "images", "video", "videos"),
    *("problem_type", "messages", "conversations", "instruction", "input", "output", "system"),
    *("history", "id"),
)


def parse_columns(text: str | None) -> dict[str, str]:
    """Own name -> name in the data set, of "prompt=question,answer=solution". Raises InputError."""
    mapping: dict[str, str] = {}
    for part in (text or "").split(",") if text is not None else ():
        name, equals, source = (word.strip() for word in part.partition("="))
        if not equals or not name or not source:
            raise InputError(
                f"columns={text[:80]}: {part[:80]!r}: give own=theirs, as prompt=question"
            )
        if name not in NAMES:
            raise InputError(
                f"columns={text[:80]}: {name[:80]!r} is no column that rows are read by"
                f"{nearest(name, list(NAMES))} (they are {', '.join(NAMES)})"
            )
        if name in mapping or source in mapping.values():
            raise InputError(f"columns={text[:80]}: {part[:80]!r}: each name may come once")
        mapping[name] = source
    return mapping


def renamed(table, columns: str | None, data: str):
    """The table (datasets.Dataset) with its columns renamed; one that already has the new name is
    replaced. A table without the old name must have the new one. Raises InputError.
    """
    mapping = parse_columns(columns)
    known = set(table.column_names)
    for name, source in mapping.items():
        if source not in known and name not in known:
            raise InputError(
                f"columns: {name}={source}: {data} has no column {source!r}"
                f"{nearest(source, sorted(known))} (it has {', '.join(sorted(known))[:300]})"
            )
        other = get_close_matches(source, known - {name}, n=1, cutoff=0.9)
        if source not in known and other:  # else the table is another one, with zipr1's own names
            raise InputError(
                f"columns: {name}={source}: {data} has no column {source!r}, but {other[0]!r}: "
                "correct one of them"
            )
    pairs = {source: name for name, source in mapping.items() if source in known and source != name}
    replaced = [name for name in pairs.values() if name in known and name not in pairs]
    if replaced:
        table = table.remove_columns(replaced)
    if cyclic := [name for name in pairs.values() if name in pairs]:
        raise InputError(f"columns: {cyclic[0]!r} is both an old and a new name; rename it first")
    return table.rename_columns(pairs) if pairs else table
