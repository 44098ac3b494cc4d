"""Token-sparse Qwen-VL: sparse inference (ZipVL), its post-training (ZipR1) and its measurement.

Names are imported when first used, so that `import zipr1` takes no time and changes nothing.
"""

from importlib import import_module

__version__ = "0.1.0"
_HOME = {
    "load": "models.loading", "save": "models.saving",
    "sparse": "sparsity.context", "Trace": "sparsity.trace", "relaxed_count": "sparsity.budget",
    "TopP": "sparsity.rules", "TopK": "sparsity.rules", "Random": "sparsity.rules", "Recent": "sparsity.rules",
    "FastV": "sparsity.rules", "KeepAll": "sparsity.rules",
    "TrainingPass": "sparsity.settings",
}  # fmt: skip
__all__ = [*_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'zipr1' has no attribute {name!r}")
    return getattr(import_module(f"zipr1.{_HOME[name]}"), name)
