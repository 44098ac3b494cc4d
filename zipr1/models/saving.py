"""Saving a model so that transformers, PEFT and `zipr1.load` read it again."""

from pathlib import Path

import torch

from zipr1.common.errors import RunError
from zipr1.models.loading import no_weight_bar
from zipr1.models.settings import write_settings


def save(
    model, processor, folder: Path, settings: dict | None = None, weights: dict | None = None
) -> None:
    """Writes a transformers folder, or an adapter's, with the processor and zipr1.json.

    settings: the keys of `TrainedSettings`. weights: a state dict that replaces the model's own,
    for a sharded model. Raises RunError, before anything is written, for a non-finite weight.
    """
    check_finite(saved_weights(model) if weights is None else weights, folder)
    with no_weight_bar():
        model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    if settings is not None:
        write_settings(settings, Path(folder))


def saved_weights(model) -> dict[str, torch.Tensor]:
    """What `save_pretrained` writes: of a model with an adapter, the adapter alone."""
    if getattr(model, "_hf_peft_config_loaded", False):
        return model.get_adapter_state_dict()
    return model.state_dict()


def check_finite(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Raises RunError that names the tensors with NaN or infinite values."""
    broken = [
        name
        for name, weight in weights.items()
        if weight.is_floating_point() and not bool(weight.isfinite().all())
    ]
    if broken:
        raise RunError(
            f"{folder}: not saved: {len(broken)} tensors have NaN or infinite values "
            f"({', '.join(broken[:3])}{' ...' if broken[3:] else ''}); "
            "go on from an earlier checkpoint with a lower learning rate"
        )
