"""`zipr1.Trainer`: post-training from Python, with the arguments of TRL's trainers.

It only gathers the arguments: the loop is in train.py, one step of it in training_step.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from zipr1.common.documents import read_lines
from zipr1.common.errors import InputError
from zipr1.models.families import check_family
from zipr1.models.loading import load_processor
from zipr1.models.location import EMBEDDED
from zipr1.models.positions import correct_positions
from zipr1.rewards.functions import Functions, load_function
from zipr1.training.callbacks import check_callbacks
from zipr1.training.config import TrainConfig
from zipr1.training.given import Given
from zipr1.training.train import train

DEFAULTS = TrainConfig()


class Trainer:
    """ZipR1 post-training; `zipr1 train` is a thin caller of it.

    model: hub id, folder, or a loaded model, which is trained in place (its copy is the reference);
        unset, args.model. processing_class: the processor of a loaded model; unset, that of its
        name.
    args: the settings, a TrainConfig.
    train_dataset, eval_dataset: a name as `data` and `probe_data` have them, or a datasets.Dataset;
        relative media paths start from args.media_root, of a Dataset else from the current folder.
    reward_funcs: one or several of functions with TRL's signature, "package.module:name" or
        "file.py:name"; unset, args.reward_function or the graders. reward_weights: one a function.
    callbacks: transformers.TrainerCallback (`training.callbacks`).

    Raises InputError for arguments that do not fit together.
    """

    def __init__(
        self,
        model: str | Path | nn.Module | None = None,
        args: TrainConfig | None = None,
        train_dataset=None,
        eval_dataset=None,
        reward_funcs: str | Callable | Sequence[str | Callable] | None = None,
        callbacks: Sequence = (),
        processing_class=None,
        reward_weights: Sequence[float] | None = None,
    ):
        args = args or TrainConfig()
        if not isinstance(args, TrainConfig):
            raise InputError(f"args={str(args)[:60]}: expected zipr1.TrainConfig(...)")
        self.callbacks = check_callbacks(callbacks)
        named, model = name_and_model(model)
        functions = functions_of(reward_funcs, reward_weights)
        own = {
            "model": named,
            "data": label(train_dataset),
            "probe_data": label(eval_dataset),
            "reward_function": None if functions is None else names(functions),
        }
        if own["data"] and not own["probe_data"] and not args.probe_data:
            raise InputError("eval_dataset: give rows to measure on that are not trained on")
        own = {name: value for name, value in own.items() if value is not None}
        for name, value in own.items():
            if getattr(args, name) not in (getattr(DEFAULTS, name), value):
                raise InputError(
                    f"{name}: args has {getattr(args, name)!r}, and the trainer got {value!r}; "
                    "give one of them"
                )
        self.args = replace(args, **own)
        if processing_class is not None and model is None:
            raise InputError("processing_class: belongs to a loaded model; leave it out")
        if model is not None:
            processing_class = processing_class or load_processor(named)
        self.given = Given(
            model,
            processing_class,
            None if isinstance(train_dataset, str | Path) else train_dataset,
            None if isinstance(eval_dataset, str | Path) else eval_dataset,
            functions,
        )

    def train(self, quiet: bool = False) -> Path:
        """Trains, or continues where args.resume is true; the folder of the final model. After
        SIGTERM or Ctrl-C the step is finished, a checkpoint written, and SystemExit raised."""
        if self.given.model is not None:
            check_untrained(self.given.model, self.args.model)
            self.given.model.zipr1_trained = True
        return train(self.args, quiet, given=self.given, callbacks=self.callbacks)

    @property
    def log_history(self) -> list[dict]:
        """The metrics of each step so far (docs/reference/metrics.md)."""
        path = Path(self.args.output_dir) / "metrics.jsonl"
        return read_lines(path)[0] if path.is_file() else []


def name_and_model(model: str | Path | nn.Module | None) -> tuple[str | None, nn.Module | None]:
    """(name, None), or the name and the model where it is loaded. Raises InputError for one that
    cannot be trained."""
    if not isinstance(model, nn.Module):
        return (None if model is None else str(model)), None
    if hasattr(model, "peft_config") or getattr(model, "_hf_peft_config_loaded", False):
        raise InputError(
            "model: has an adapter already; give its base model and args with use_peft=True"
        )
    check_family(model.config.model_type, type(model).__name__)
    name = model.config.name_or_path
    if not name:
        raise InputError(
            "model: has no name (config.name_or_path), under which the result could say what it "
            "was trained from; set it"
        )
    embedded = {str(path): known for known, path in EMBEDDED.items()}
    name = embedded.get(name, name)
    correct_positions(model)
    return name, model.requires_grad_(False).eval()


def check_untrained(model: nn.Module, name: str) -> None:
    """Raises InputError for a model that a training has changed: its copy is no reference."""
    if getattr(model, "zipr1_trained", False):
        raise InputError(
            f"model: was trained already, so it is no longer {name}; load it "
            "again, or give the folder of the trained model"
        )


def label(dataset) -> str | None:
    """How the settings name rows; of a Dataset what it holds, which a resumed run has to match."""
    if dataset is None or isinstance(dataset, str | Path):
        return None if dataset is None else str(dataset)
    columns = ", ".join(getattr(dataset, "column_names", None) or ())
    count = len(dataset) if hasattr(dataset, "__len__") else "?"
    return f"{type(dataset).__name__} of {count} rows ({columns})"


def functions_of(
    functions: str | Callable | Sequence[str | Callable] | None, weights: Sequence[float] | None
) -> Functions | None:
    """Weights and functions; names are looked up. Raises InputError."""
    if functions is None:
        if weights is not None:
            raise InputError("reward_weights: belong to reward_funcs; give both")
        return None
    several = [functions] if isinstance(functions, str) or callable(functions) else list(functions)
    found: list[tuple[float, Callable]] = []
    for one in several:
        found += load_function(one) if isinstance(one, str) else [(1.0, one)]
        if not callable(found[-1][1]):
            raise InputError(f"reward_funcs: {one!r} is neither a function nor the name of one")
    if weights is not None:
        if len(weights) != len(found):
            raise InputError(
                f"reward_weights: {len(weights)} for {len(found)} functions; give one each"
            )
        found = [(float(w) * own, one) for w, (own, one) in zip(weights, found, strict=True)]
    return tuple(found)


def names(functions: Functions) -> str:
    """What the settings keep of functions in memory."""
    parts = []
    for weight, one in functions:
        name = f"{one.__module__}:{getattr(one, '__name__', type(one).__name__)}"
        parts.append(name if weight == 1 else f"{weight:g}*{name}")
    return ",".join(parts)
