"""Settings inside lmms-eval: a task's generation settings, and pixel bounds."""

from zipr1.common.errors import InputError
from zipr1.data.processor import has_pixel_bounds

SAMPLING = ("temperature", "top_p", "top_k", "num_beams", "do_sample")


def generation_settings(given: dict) -> dict:
    """A task's generation settings as generate() takes them: greedy unless a temperature is set.

    `until` is left out, as by lmms-eval's own Qwen-VL chat models: their chat ends with a token,
    and "\\n\\n" would cut free-form answers.
    """
    settings = {name: given[name] for name in SAMPLING if given.get(name) is not None}
    settings["do_sample"] = settings.get("temperature", 0) > 0
    if not settings["do_sample"]:
        for name in ("temperature", "top_p", "top_k"):
            settings.pop(name, None)
    return {"max_new_tokens": given.get("max_new_tokens", 128)} | settings


def set_pixels(processor, part: str, least: int | None, most: int | None) -> None:
    """Sets the pixel bounds that are given. Raises InputError for a processor without any."""
    bounds = {"shortest_edge": least, "longest_edge": most}  # called edges, they are areas
    given = {name: int(value) for name, value in bounds.items() if value is not None}
    if not given:
        return
    found = getattr(processor, part, None)
    if found is None or not has_pixel_bounds(found):
        raise InputError(
            f"{type(processor).__name__}: its {part} has no pixel bounds; leave out min_pixels, "
            "max_pixels, video_min_pixels and video_max_pixels"
        )
    found.size = dict(found.size) | given
