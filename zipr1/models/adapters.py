"""LoRA adapters: a folder or hub id with adapter_config.json, and the base model it names."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from transformers.utils.peft_utils import find_adapter_config_file

from zipr1.common.errors import InputError
from zipr1.models.damaged import first_line, named_damage
from zipr1.models.location import EMBEDDED, locate
from zipr1.models.weights import check_keys

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapter:
    """Where an adapter is (as `locate` says), and its base model with the base's revision."""

    location: str
    options: dict
    base: str
    revision: str | None


def is_adapter(name: str | Path, **options) -> bool:
    """Whether a folder or hub id holds a LoRA adapter instead of a model."""
    return str(name) not in EMBEDDED and config_file(*locate(name, **options)) is not None


def config_file(location: str, options: dict) -> str | None:
    """The path of adapter_config.json, downloaded if need be; None where there is none."""
    return find_adapter_config_file(location, **options)


def find_adapter(name: str | Path, **options) -> Adapter | None:
    """The adapter of that name; None for a model. Raises InputError for one that is not usable."""
    if str(name) in EMBEDDED:
        return None
    location, download = locate(name, **options)
    path = config_file(location, download)
    if path is None:
        return None
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: must hold a JSON object")
    if (kind := config.get("peft_type")) != "LORA":
        raise InputError(f"{path}: peft_type={str(kind)[:40]!r}: only LORA adapters are supported")
    base, rank = config.get("base_model_name_or_path"), config.get("r")
    if not isinstance(base, str) or not base:
        raise InputError(
            f"{path}: base_model_name_or_path={str(base)[:40]}: must name the base model; "
            "write its folder or hub id there"
        )
    if type(rank) is not int or rank < 1:
        raise InputError(f"{path}: r={str(rank)[:40]}: must be a positive integer, the rank")
    token = {key: download[key] for key in ("token", "cache_dir") if key in download}
    if is_adapter(base, **token):
        raise InputError(
            f"{path}: its base {base} is itself an adapter; merge that one into its own base "
            "(model.merge_adapter, save_pretrained) and name the result here"
        )
    return Adapter(location, download, base, config.get("revision"))


def add_adapter(model, adapter: Adapter, name: str | Path) -> None:
    """Loads the weights of an adapter into its base model.

    Raises InputError unless the keys and shapes of the file are exactly those of the adapter that
    its configuration describes on this model.
    """
    try:
        with named_damage(f"{name}: does not fit {adapter.base}", but=OSError):
            info = model.load_adapter(
                adapter.location,
                adapter_kwargs=adapter.options,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported below, together with the other keys
            )
    except (SafetensorError, OSError) as error:
        raise InputError(f"{name}: {WEIGHTS} cannot be read ({first_line(error)})") from error
    check_keys(info, f"{name}: the adapter does not fit its base {adapter.base}")
