"""Loading a model with its processor: from a hub, a folder, an adapter, or the package itself."""

import json
from pathlib import Path

import torch
from huggingface_hub import constants, is_offline_mode
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor, AutoTokenizer
from transformers.utils import cached_file

from zipr1.common.errors import InputError, MissingExtra
from zipr1.models.adapter_processor import with_own_parts
from zipr1.models.adapters import add_adapter, find_adapter, named_base
from zipr1.models.arguments import check_arguments, named_argument
from zipr1.models.damaged import check_counts, check_together, first_line, named_damage
from zipr1.models.families import (
    VISION_FAMILIES,
    auto_class,
    check_family,
    is_vision,
    sparse_layers,
)
from zipr1.models.location import EMBEDDED, hub_answers, locate, models_below, split_options
from zipr1.models.positions import correct_positions
from zipr1.models.weights import check_keys, no_weight_bar


def load(name: str | Path, **kwargs) -> tuple:
    """(model, processor) of a hub id, a folder or "zipr1/tiny"; a text model has its tokenizer.

    `kwargs` go to from_pretrained (dtype, device_map, ...); those that choose the files (revision,
    token, cache_dir, subfolder) also to the configuration, the processor and an adapter. The model
    is in evaluation mode and frozen. Raises InputError for an unsupported model family, for files
    that cannot be loaded, for an argument that from_pretrained does not have, and for weights that
    do not fit: keys missing, unexpected or of another shape, or files that are not safetensors.
    """
    check_arguments(kwargs)
    download, other = split_options(kwargs)
    if (adapter := find_adapter(name, **download)) is None:
        model = load_weights(name, download, other)
    else:
        with named_base(adapter.file, adapter.base):
            load_config(adapter.base, **adapter.base_options)
        model = load_weights(adapter.base, adapter.base_options, other)
        add_adapter(model, adapter, name)
    processor = load_processor(name, **download)
    check_together(model, processor, tokenizer_of(processor), name)
    correct_positions(model)
    model.requires_grad_(False).eval()
    return model, processor


def load_weights(name: str | Path, download: dict, kwargs: dict):
    """The model without its processor; raises as `load` does."""
    config = load_config(name, **download)
    location, download = locate(name, **download)
    given = f" and {', '.join(kwargs)}" if kwargs else ""
    if str(name) in EMBEDDED:  # stored in half precision, which a CPU computes ten times slower
        kwargs = kwargs if "torch_dtype" in kwargs else {"dtype": torch.float32} | kwargs
    if download.get("local_files_only"):  # transformers looks for an adapter in the hub else
        kwargs = {"adapter_kwargs": {"local_files_only": True}} | kwargs
    try:
        with (
            no_weight_bar(),
            named_damage(f"{name}: no model could be built from its files{given}", but=OSError),
            named_argument(kwargs),
        ):
            model, info = auto_class(config).from_pretrained(
                location,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported by check_keys, with the other keys
                **download,
                **kwargs,
            )
    except SafetensorError as error:
        raise InputError(
            f"{name}: its weights cannot be read ({error}); download or save them again"
        ) from error
    except ImportError as error:  # of a quantised model or an attention that needs a package
        raise MissingExtra(f"{name}: no model could be loaded ({first_line(error)})") from error
    except OSError as error:
        raise InputError(
            f"{name}: no weights in safetensors files could be loaded ({first_line(error)}); other "
            "kinds of files are not read: convert them with save_pretrained"
        ) from error
    check_keys(info, f"{name}: the weights do not fit a {config.model_type} model")
    return model


def load_config(name: str | Path, **options):
    """The transformers configuration of a model; `options` and errors as those of `load`."""
    location, download = locate(name, **options)
    try:
        path = cached_file(location, "config.json", **download)
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:  # its own message does not always name the model
        absent = "" if Path(name).exists() else ": there is no such folder, and from the hub"
        if absent and not (is_offline_mode() or hub_answers()):
            absent += f", which does not answer at {constants.ENDPOINT}"
        raise InputError(
            f"{name}{absent}: no model could be loaded ({first_line(error)})"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    family = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(family, str):
        models = models_below(Path(name))
        hint = f"; give one of the models below {name}: {', '.join(models)}" if models else ""
        raise InputError(
            f"{path}: has no model_type, so it is not the configuration of a model{hint}"
        )
    check_family(family, name)
    check_counts(content, path)
    if family in VISION_FAMILIES and not isinstance(content.get("vision_config"), dict):
        raise InputError(f"{path}: no vision_config, which a {family} model has")
    try:
        with named_damage(f"{path}: not a valid configuration"):
            config = AutoConfig.from_pretrained(location, **download)
    except StrictDataclassError as error:
        raise InputError(f"{path}: not a valid configuration ({first_line(error)})") from error
    sparse_layers(config, name)
    return config


def load_processor(name: str | Path, **options):
    """The processor of a model, of a text model its tokenizer; it can pad. Options as `load`.

    An adapter has its base's, with the processor or tokenizer that is saved with the adapter.
    """
    if (adapter := find_adapter(name, **options)) is not None:
        processor = load_processor(adapter.base, **adapter.base_options)
        with named_damage(f"{name}: its processor could not be loaded", but=ImportError):
            return with_own_parts(processor, adapter.location, adapter.options)
    vision = is_vision(load_config(name, **options))
    location, download = locate(name, **options)
    try:
        with named_damage(f"{name}: no processor could be loaded"):
            processor = (AutoProcessor if vision else AutoTokenizer).from_pretrained(
                location, **download
            )
            tokenizer = tokenizer_of(processor)
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
    except ImportError as error:  # of a package that this processor needs: its message says which
        raise MissingExtra(f"{name}: no processor could be loaded ({first_line(error)})") from error
    return processor


def load_vision(name: str | Path, **kwargs) -> tuple:
    """`load` for the commands that show images: on a GPU where there is one.

    Raises InputError for a text model.
    """
    model, processor = load(name, **kwargs)
    if torch.cuda.is_available() and "device_map" not in kwargs:
        model.to("cuda")
    if not is_vision(model.config):
        raise InputError(
            f"{name}: a text model ({model.config.model_type}) takes no images; use a vision model"
        )
    return model, processor


def tokenizer_of(processor):
    """The tokenizer of a processor; a text model's processor is its tokenizer."""
    return getattr(processor, "tokenizer", processor)
