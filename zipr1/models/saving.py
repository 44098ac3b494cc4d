"""Saving a model so that transformers, PEFT and `zipr1.load` read it again."""

from pathlib import Path

import torch

from zipr1.common.errors import InputError, RunError
from zipr1.models import adapters
from zipr1.models.loading import tokenizer_of
from zipr1.models.saving_adapters import active_adapter, adapter_weights, is_peft, save_adapter
from zipr1.models.settings import FILE, checked, write_settings
from zipr1.models.weights import no_weight_bar

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")


def save(
    model, processor, folder: Path, settings: dict | None = None, weights: dict | None = None
) -> None:
    """Writes a transformers folder, or an adapter's, with the processor and zipr1.json.

    Files of an earlier model that `zipr1.load` would read are deleted: an adapter where a whole
    model is saved, zipr1.json where no settings are given. Of several adapters the active one is
    saved.

    settings: the keys of `TrainedSettings`. weights: a state dict that replaces the model's own,
    for a sharded model. Raises, before anything is written, RunError for a non-finite weight, and
    InputError for what could not be loaded again.
    """
    folder = Path(folder)
    check_parts(model, processor, folder)
    if settings is not None:
        checked(settings, folder / FILE)
    adapter = active_adapter(model, folder)
    check_finite(saved_weights(model, adapter) if weights is None else weights, folder)
    if adapter is None:
        (folder / INDEX).unlink(missing_ok=True)
    with no_weight_bar():
        if is_peft(model):
            save_adapter(model, adapter, folder, weights)
        else:
            model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    if settings is not None:
        write_settings(settings, folder)
    for file in stale_files(processor, adapter, settings, (folder / INDEX).exists()):
        (folder / file).unlink(missing_ok=True)


def stale_files(processor, adapter: str | None, settings: dict | None, sharded: bool) -> list[str]:
    """The files that `save` has not written, so that they belong to an earlier model."""
    files = [] if adapter else [adapters.CONFIG, adapters.WEIGHTS]
    files += [WEIGHTS] if sharded else []
    files += [FILE] if settings is None else []
    parts = (processor, tokenizer_of(processor))
    return files + ([] if any(getattr(p, "chat_template", None) for p in parts) else [*TEMPLATES])


def check_parts(model, processor, folder: Path) -> None:
    """Raises InputError for a model, a processor or a place that cannot be written."""
    if not hasattr(model, "save_pretrained"):
        raise InputError(
            f"model: {type(model).__name__} has no save_pretrained; give the model inside it "
            "(model.module of a DataParallel)"
        )
    if not hasattr(processor, "save_pretrained"):
        raise InputError(
            f"processor: {type(processor).__name__} has no save_pretrained; give the processor "
            "that zipr1.load returned with the model"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file; give a folder")


def saved_weights(model, adapter: str | None) -> dict[str, torch.Tensor]:
    """What is written: of a model with an adapter, the adapter alone."""
    return model.state_dict() if adapter is None else adapter_weights(model, adapter)


def check_finite(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Raises RunError that names the tensors with NaN or infinite values, and InputError for
    weights that are not in memory."""
    if absent := [name for name, weight in weights.items() if weight.is_meta]:
        raise InputError(
            f"{folder}: not saved: {len(absent)} tensors are not in memory ({absent[0]} ...); load "
            "the model without offloading (device_map) to save it"
        )
    broken = [name for name, weight in weights.items() if not is_finite(weight)]
    if broken:
        raise RunError(
            f"{folder}: not saved: {len(broken)} tensors have NaN or infinite values "
            f"({', '.join(broken[:3])}{' ...' if broken[3:] else ''}); "
            "go on from an earlier checkpoint with a lower learning rate"
        )


def is_finite(weight: torch.Tensor) -> bool:
    """Of integers, and of half bytes, which have no other values, true."""
    if not weight.is_floating_point() or weight.dtype is torch.float4_e2m1fn_x2:
        return True
    weight = weight.float() if weight.element_size() == 1 else weight
    return bool(weight.isfinite().all())
