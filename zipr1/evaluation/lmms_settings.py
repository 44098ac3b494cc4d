"""Settings inside lmms-eval: a task's generation settings, and pixel bounds."""

from zipr1.common.errors import InputError
from zipr1.data.processor import has_pixel_bounds

USED = (
    *("max_new_tokens", "do_sample", "temperature", "top_p", "top_k"),
    *("num_beams", "repetition_penalty"),
)
# In lmms-eval's own tasks, for other models or APIs: its Qwen-VL models do not read them either.
IGNORED = (
    *("until", "stop_sequences", "seed", "skip_special_tokens"),
    *("image_aspect_ratio", "visual_cot"),
)


def generation_settings(given: dict, task: str) -> dict:
    """A task's generation settings as generate() takes them: as in lmms-eval's own models, a
    temperature above 0 means sampling; without one, `do_sample` means 1. None counts as absent.

    `until` is left out, as by lmms-eval's own Qwen-VL chat models: their chat ends with a token,
    and "\\n\\n" would cut free-form answers. Raises InputError for a setting that is not used.
    """
    settings = {
        name: value for name, value in given.items() if value is not None and name not in IGNORED
    }
    for name, value in settings.items():
        place = f"{task}: {name}={value!r} (--gen_kwargs, or generation_kwargs of the task's YAML)"
        if name not in USED:
            raise InputError(f"{place}: leave it out; zipr1 passes on {', '.join(USED)}")
        if not isinstance(value, int | float) or not value >= 0:
            raise InputError(f"{place}: must be a number, at least 0")
    temperature = settings.setdefault("temperature", 1.0 if settings.get("do_sample") else 0)
    settings["do_sample"] = temperature > 0
    if not settings["do_sample"]:
        for name in ("temperature", "top_p", "top_k"):
            settings.pop(name, None)
    return {"max_new_tokens": 128} | settings


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
