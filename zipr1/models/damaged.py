"""Files of a model that transformers uses unchecked: what it raises names neither file nor fix."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zipr1.common.errors import InputError, RunError

# As tests/models/test_fuzz_checkpoints.py shows, for values of other types than expected, for
# missing keys, and for numbers that no model has.
UNCHECKED = (
    AttributeError,
    TypeError,
    LookupError,
    ValueError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    OSError,
)


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]


@contextmanager
def named_damage(what: str, but: type[Exception] = InputError) -> Iterator[None]:
    """Only calls of libraries that read a model's files stand inside: their errors, `but` for some,
    become an InputError, `what` with the reason."""
    try:
        yield
    except (InputError, RunError, torch.OutOfMemoryError, but):
        raise
    except UNCHECKED as error:
        raise InputError(f"{what} ({type(error).__name__}: {first_line(error)})") from error
    except Exception as error:
        if type(error) is not Exception:  # what tokenizers raises for its file
            raise
        raise InputError(f"{what} ({first_line(error)})") from error


MOST = 100_000  # modules of a kind, heads or experts: more are built for hours before they fail


def check_counts(content: dict, path) -> None:
    """Raises InputError for a count in a config.json that no model has."""
    for key, value in content.items():
        if isinstance(value, dict):
            check_counts(value, path)
        counted = key.startswith("num_") or key in ("depth", "n_layer")
        if counted and type(value) is int and value > MOST:
            raise InputError(
                f"{path}: {key}={shown(value)}: more than {MOST}; no model has so many"
            )


FLAGS = (
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "use_cache"),
    *("do_sample", "return_dict_in_generate"),
)
# Sizes in the configurations of an image or video processor and of the vision tower.
SIZES = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}


def check_together(model, processor, tokenizer, name) -> None:
    """Raises InputError where the processor's files and the model's configuration disagree on the
    tokens of images and videos, on the size of patches, or on the number of tokens; and for tokens
    and flags of generation_config.json that are none."""
    rows = len(model.get_input_embeddings().weight)
    problems = [*disagreements(model.config, processor), *faults(model.generation_config, rows)]
    if len(tokenizer) > rows:
        problems.append(f"the tokenizer has {len(tokenizer)} tokens, the model {rows}")
    if problems:
        raise InputError(f"{name}: its files do not belong together: {'; '.join(problems[:4])}")


def disagreements(config, processor) -> Iterator[str]:
    """What a configuration and the processor say differently."""
    for key in ("image_token_id", "video_token_id"):
        own, other = getattr(config, key, None), getattr(processor, key, None)
        # Gemma 3 has one token in a text before it is processed, and another afterwards.
        known = {other, *(getattr(processor, f"{key}s", None) or ())}
        if own is not None and other is not None and own not in known:
            yield f"{key}: {shown(own)} in config.json, {other} of the processor"
    for part in ("image_processor", "video_processor"):
        found = getattr(processor, part, None)
        for key, same in SIZES.items() if hasattr(found, "merge_size") else ():
            own, other = getattr(config.vision_config, same, None), getattr(found, key, None)
            if own is not None and own != other:
                yield f"{same}: {shown(own)} in config.json, {shown(other)} of the {part}"


def faults(generation, rows: int) -> Iterator[str]:
    """What is wrong with the settings of generation of a model with that many tokens."""
    for key, value in vars(generation).items():
        if key.endswith("_token_id") or key == "suppress_tokens":
            tokens = value if isinstance(value, list) else [value]
            wrong = [t for t in tokens if t is not None and not (type(t) is int and 0 <= t < rows)]
        else:
            wrong = [value] if key in FLAGS and not isinstance(value, bool | None) else []
        if wrong:
            yield f"{key}: {shown(wrong[0])} in generation_config.json"


def shown(value: object) -> str:
    return repr(value)[:40]
