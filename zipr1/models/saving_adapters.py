"""What `zipr1.save` writes of a model with LoRA adapters: the active one, by PEFT or transformers."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from zipr1.common.errors import InputError

CARD = "README.md"


def is_peft(model) -> bool:
    """Whether it is a PeftModel, which holds the model; transformers adds adapters to the model."""
    return hasattr(model, "get_base_model")


def active_adapter(model, folder: Path) -> str | None:
    """The name of the adapter to save; None for a model without any. Raises InputError unless
    one adapter is active, and names a base that is not the folder itself."""
    if not (is_peft(model) or getattr(model, "_hf_peft_config_loaded", False)):
        if inside := [name for name, _ in model.named_modules() if name.endswith(".base_layer")]:
            raise InputError(
                f"model: has an adapter inside ({inside[0]}), which only its PeftModel can save; "
                "give that"
            )
        return None
    active = model.active_adapters if is_peft(model) else model.active_adapters()
    if len(active) != 1:
        raise InputError(
            f"model: {len(active)} adapters are active ({', '.join(active)}), and a folder holds "
            "one; choose it with model.set_adapter(name)"
        )
    config = model.peft_config[active[0]]
    if config.peft_type != "LORA":
        raise InputError(
            f"model: its adapter is {config.peft_type.value}, and zipr1.load reads only LORA; merge "
            "it and save the model, or write it with model.save_pretrained"
        )
    base = config.base_model_name_or_path
    if not base and is_peft(model):
        base = model.get_base_model().name_or_path
    if not base:
        raise InputError(
            "model: its base has no name, under which the adapter could be loaded; save the base "
            "model first and set model.peft_config"
            f"[{active[0]!r}].base_model_name_or_path to its folder"
        )
    if Path(base).resolve() == folder.resolve():
        raise InputError(f"{folder}: holds the base of this adapter; choose another folder")
    return active[0]


def adapter_weights(model, adapter: str) -> dict[str, torch.Tensor]:
    """The tensors of that adapter."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(model, adapter_name=adapter)


def save_adapter(model, adapter: str, folder: Path, weights: dict | None) -> None:
    """Writes an adapter of a PeftModel to the folder itself: PEFT writes one that is not called
    "default" to a subfolder, where it is not found. A README.md that is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as part:
        model.save_pretrained(part, selected_adapters=[adapter], state_dict=weights)
        for file in Path(part).rglob("*"):
            if file.is_file() and not (file.name == CARD and (folder / CARD).exists()):
                file.replace(folder / file.name)
