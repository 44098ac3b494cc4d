"""LoRA adapters: a folder or hub id with adapter_config.json, and the base model it names."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from zipr1.common.errors import InputError, MissingExtra
from zipr1.models.damaged import first_line, named_damage
from zipr1.models.location import EMBEDDED, locate
from zipr1.models.weights import check_keys, no_weight_bar

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MERGE = (
    "merge it into its base: PeftModel.from_pretrained(base, adapter).merge_and_unload()"
    ".save_pretrained(folder)"
)


@dataclass(frozen=True)
class Adapter:
    """Where an adapter is (as `locate` says), its configuration file, and its base model with the
    base's revision."""

    location: str
    options: dict
    file: str
    base: str
    revision: str | None

    @property
    def base_options(self) -> dict:
        """The download options of the base."""
        return access(self.options) | ({"revision": self.revision} if self.revision else {})


def access(options: dict) -> dict:
    """Of the download options those that hold for an adapter and its base."""
    return {key: options[key] for key in ("token", "cache_dir") if key in options}


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
    with named_base(path, base):
        nested = is_adapter(base, **access(download))
    if nested:
        raise InputError(
            f"{path}: its base {base} is itself an adapter; {MERGE}, and name that folder here"
        )
    return Adapter(location, download, path, base, config.get("revision"))


@contextmanager
def named_base(file: str, base: str) -> Iterator[None]:
    """An InputError about the base names the file and the key that name the base."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{file}: base_model_name_or_path={base}: {error}; write the base's absolute folder or "
            "its hub id there"
        ) from error


def add_adapter(model, adapter: Adapter, name: str | Path) -> None:
    """Loads the weights of an adapter into its base model.

    Raises InputError unless the keys and shapes of the file are exactly those of the adapter that
    its configuration describes on this model.
    """
    try:
        with named_damage(f"{name}: does not fit {adapter.base}", but=OSError), no_weight_bar():
            weights = load_file(cached_file(adapter.location, WEIGHTS, **adapter.options))
            info = model.load_adapter(
                adapter.location,
                adapter_kwargs=adapter.options,
                adapter_state_dict={key_in_model(key): weights[key] for key in weights},
                ignore_mismatched_sizes=True,  # reported below, together with the other keys
            )
    except ImportError as error:
        raise MissingExtra(f"{name}: an adapter needs PEFT ({first_line(error)})") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{name}: {WEIGHTS} cannot be read ({first_line(error)})") from error
    info.missing_keys = info.missing_keys - shared_keys(model, info.missing_keys)
    check_keys(info, f"{name}: the adapter does not fit its base {adapter.base}")


def key_in_model(key: str) -> str:
    """DoRA's magnitudes are a module in the model and a bare tensor in the file; transformers does
    not know that."""
    return key + ".weight" if key.endswith(".lora_magnitude_vector") else key


def shared_keys(model, missing: set[str]) -> set[str]:
    """Of the missing keys those whose parameter was loaded under another name: tied tokens."""
    named = dict(model.named_parameters(remove_duplicate=False))
    loaded = {id(weight) for name, weight in named.items() if name not in missing}
    return {name for name in missing if id(named.get(name)) in loaded}
