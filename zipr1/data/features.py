"""What the types of a data set's columns (datasets.Features) say about the values in them."""

import json
from dataclasses import replace

import numpy as np

from zipr1.common.errors import InputError
from zipr1.data.source import short

FLOATS = ("float16", "float32")  # Arrow gives them as Python's float, with digits of their own


def media_kind(feature) -> str | None:
    """image, video or audio for a column of such, or of lists of such; else None."""
    import datasets

    if is_list(feature):
        return media_kind(feature.feature)
    kinds = {datasets.Image: "image", datasets.Video: "video", datasets.Audio: "audio"}
    return kinds.get(type(feature))


def is_list(feature) -> bool:
    import datasets

    return isinstance(feature, datasets.List | datasets.LargeList)


def holds_json(feature) -> bool:
    """Whether its values are texts of JSON, or have such inside."""
    import datasets

    if is_list(feature):
        return holds_json(feature.feature)
    if isinstance(feature, dict):
        return any(map(holds_json, feature.values()))
    return isinstance(feature, datasets.Json)


def without_media(features):
    """How to decode what is no image, video, sound or JSON: those are read here, so that a broken
    one is named, and numbers stay exact."""
    import datasets

    def plain(feature):
        if is_list(feature):
            return replace(feature, feature=plain(feature.feature))
        if isinstance(feature, dict):
            return {name: plain(inner) for name, inner in feature.items()}
        read_here = media_kind(feature) or isinstance(feature, datasets.Json)
        return replace(feature, decode=False) if read_here else feature

    return datasets.Features(plain(features))


def check_media_columns(features, read: frozenset[str], data: str) -> None:
    """Raises InputError where a column of images, videos or sounds is none of those that are
    `read`: the model would be asked without them."""
    for name, feature in features.items():
        kind = media_kind(feature)
        if kind == "audio":
            raise InputError(f"{data}: column {name!r} holds audio, which is not read: remove it")
        if kind and name not in read:
            several = ", put several into lists in one column 'images'" * (kind == "image")
            raise InputError(
                f"{data}: column {name!r} holds {kind}s that no prompt shows: --columns "
                f"{kind}={name}{several}, or remove it"
            )


def plain_values(values: dict, features, number: int) -> dict:
    """The values of row `number` with class labels by their names, at any depth, JSON decoded, and
    float32 numbers as they are written (0.1, not 0.10000000149). Raises InputError for an unknown
    label."""
    return {
        name: plain_value(value, features[name], f"row {number}: column {name!r}")
        if name in features and needs_change(features[name])
        else value
        for name, value in values.items()
    }


def needs_change(feature) -> bool:
    import datasets

    if is_list(feature):
        return needs_change(feature.feature)
    if isinstance(feature, dict):
        return any(map(needs_change, feature.values()))
    kinds = datasets.ClassLabel | datasets.Json
    return isinstance(feature, kinds) or getattr(feature, "dtype", "") in FLOATS


def plain_value(value, feature, where: str):
    """One value for `plain_values`; `where` begins the error."""
    import datasets

    if value is None:
        return None
    if isinstance(feature, datasets.ClassLabel):
        return label(value, feature, where)
    if isinstance(feature, datasets.Json):
        return json_value(value)
    if is_list(feature):
        return [plain_value(item, feature.feature, where) for item in value]
    if isinstance(feature, dict):
        return {name: plain_value(value[name], inner, where) for name, inner in feature.items()}
    if getattr(feature, "dtype", "") in FLOATS and isinstance(value, float):
        return float(str(np.dtype(feature.dtype).type(value)))
    return value


def json_value(text: str):
    """What a text of JSON says. `datasets` itself stores the texts 007 and 1.50 without quotes:
    what is no JSON, and a number that JSON writes in another form, is a text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    is_number = isinstance(value, int | float)
    return text if is_number and json.dumps(value) != text else value


def label(value: int, feature, where: str) -> str | None:
    """The name of a class label; -1, an unknown one in `datasets`, is None. Raises InputError."""
    if value == -1:
        return None
    if not 0 <= value < len(feature.names or ()):
        raise InputError(
            f"{where} is the number {value} of a label, of which there are "
            f"{len(feature.names or ())} ({short(', '.join(feature.names or ()))}): correct it"
        )
    return feature.int2str(value)
