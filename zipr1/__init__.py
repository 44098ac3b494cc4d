"""Token-sparse vision-language models (Qwen-VL and relatives): sparse inference (ZipVL), post-training
(ZipR1) and measurement.

Names are imported when first used, so that `import zipr1` takes no time and changes nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers read; the same names as in _HOME
    from zipr1.models.loading import load as load
    from zipr1.models.positions import correct_positions as correct_positions
    from zipr1.models.saving import save as save
    from zipr1.sparsity.budget import relaxed_count as relaxed_count
    from zipr1.sparsity.context import sparse as sparse
    from zipr1.sparsity.repeated_frames import reuse_frames as reuse_frames
    from zipr1.sparsity.rules import DenseFirst as DenseFirst
    from zipr1.sparsity.rules import FastV as FastV
    from zipr1.sparsity.rules import KeepAll as KeepAll
    from zipr1.sparsity.rules import Random as Random
    from zipr1.sparsity.rules import Recent as Recent
    from zipr1.sparsity.rules import TopK as TopK
    from zipr1.sparsity.rules import TopP as TopP
    from zipr1.sparsity.settings import TrainingPass as TrainingPass
    from zipr1.sparsity.trace import Trace as Trace
    from zipr1.training.config import TrainConfig as TrainConfig
    from zipr1.training.trainer import Trainer as Trainer

__version__ = "0.1.0"
_HOME = {
    "load": "models.loading", "save": "models.saving", "correct_positions": "models.positions",
    "reuse_frames": "sparsity.repeated_frames",
    "sparse": "sparsity.context", "Trace": "sparsity.trace", "relaxed_count": "sparsity.budget",
    "TopP": "sparsity.rules", "TopK": "sparsity.rules", "Random": "sparsity.rules",
    "Recent": "sparsity.rules", "FastV": "sparsity.rules", "KeepAll": "sparsity.rules",
    "DenseFirst": "sparsity.rules",
    "TrainingPass": "sparsity.settings", "Trainer": "training.trainer",
    "TrainConfig": "training.config",
}  # fmt: skip
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zipr1' has no attribute {name!r}")
    return getattr(import_module(f"zipr1.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
