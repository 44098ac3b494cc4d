"""What differs between the supported versions of transformers, and when each entry can go."""

import transformers
from packaging.version import Version

# transformers 5.24 renamed the argument, and the output, `past_key_values` of a model to `cache`;
# the old name works until 5.40. Remove this when 5.24 is the lowest supported version.
CACHE = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"


def cache_of(output):
    """The KV cache in a model's output."""
    return getattr(output, CACHE)


def take_cache(kwargs: dict):
    """Takes the KV cache, under either name, out of a model's arguments; None if absent."""
    found = [kwargs.pop(name, None) for name in ("past_key_values", "cache")]
    return next((cache for cache in found if cache is not None), None)
