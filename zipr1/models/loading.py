"""Loading and saving a model, and the context in which it is sparse."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.utils.peft_utils import find_adapter_config_file

VISION_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TEXT_FAMILIES = ("llama", "qwen2", "qwen3")
EMBEDDED = {"zipr1/tiny": Path(__file__).parent / "assets" / "tiny"}


def load(name: str | Path, **kwargs) -> tuple:
    """(model, processor) of a hub id, a local folder, or the embedded "zipr1/tiny"; a text model comes with its tokenizer.

    `kwargs` go to from_pretrained (dtype, device_map, ...). Raises ValueError for a model that is not of a supported
    family and OSError where nothing can be loaded.
    """
    source = EMBEDDED.get(str(name), name)
    if source is not name:
        kwargs.setdefault(
            "dtype", torch.float32
        )  # stored in half precision, which a CPU computes ten times slower
    if not Path(source).is_dir() and str(source).count("/") != 1:
        raise FileNotFoundError(f"{name}: neither a model folder nor a hub id (owner/name)")
    if (Path(source) / "final").is_dir() and not (Path(source) / "config.json").exists():
        raise FileNotFoundError(
            f"{name}: the folder of a run, not of a model: give {Path(source) / 'final'}"
        )
    if is_adapter(source):
        return load_adapter(str(source), **kwargs)
    family = load_config(name).model_type
    vision = family in VISION_FAMILIES
    try:
        model = (AutoModelForImageTextToText if vision else AutoModelForCausalLM).from_pretrained(
            source, **kwargs
        )
    except SafetensorError as error:
        raise OSError(
            f"{name}: its weights cannot be read ({error}); download or save them again"
        ) from error
    model.requires_grad_(False).eval()
    return model, processor_of(source, family)


def load_config(name: str | Path):
    """The transformers configuration of a model; raises as `load` does."""
    try:
        config = AutoConfig.from_pretrained(EMBEDDED.get(str(name), name))
    except OSError as error:  # its own message does not name the model
        absent = "" if Path(name).exists() else ": there is no such folder, and from the hub"
        raise OSError(f"{name}{absent}: no model could be loaded ({error})") from error
    check_family(config.model_type, name)
    return config


def processor_of(source: str | Path, family: str):
    """The processor of a model, of a text model its tokenizer; it pads."""
    processor = (AutoProcessor if family in VISION_FAMILIES else AutoTokenizer).from_pretrained(
        source
    )
    if tokenizer_of(processor).pad_token_id is None:
        tokenizer_of(processor).pad_token = tokenizer_of(processor).eos_token
    return processor


def is_adapter(source: str | Path) -> bool:
    """Whether a folder or hub id holds a LoRA adapter instead of a model."""
    return str(source) not in EMBEDDED and find_adapter_config_file(str(source)) is not None


def load_adapter(source: str, **kwargs) -> tuple:
    """`load` of the base that a LoRA adapter was trained on, with the adapter in it."""
    base = json.loads(Path(find_adapter_config_file(source)).read_text())["base_model_name_or_path"]
    model, processor = load(base, **kwargs)
    model.load_adapter(source)
    model.requires_grad_(False).eval()
    return model, processor


def load_vision(name: str | Path, **kwargs) -> tuple:
    """`load` for the commands, which show pictures to the model, on a GPU where there is one. Raises ValueError for a text
    model."""
    model, processor = load(name, **kwargs)
    if torch.cuda.is_available() and "device_map" not in kwargs:
        model.to("cuda")
    if model.config.model_type not in VISION_FAMILIES:
        raise ValueError(
            f"{name}: a text model ({model.config.model_type}) sees no pictures; use a Qwen-VL model"
        )
    return model, processor


def check_family(family: str, name: str | Path) -> None:
    """Raises ValueError for a model family whose doors were not checked."""
    if family not in VISION_FAMILIES + TEXT_FAMILIES:
        known = ", ".join(VISION_FAMILIES + TEXT_FAMILIES)
        raise ValueError(f"{name}: model family {family!r} is not supported; use one of {known}")


def save(
    model, processor, folder: Path, settings: dict | None = None, weights: dict | None = None
) -> None:
    """A plain transformers folder, or that of an adapter, with the rule it was trained for in zipr1.json. `weights` replace the
    model's own."""
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    if settings is not None:
        (Path(folder) / "zipr1.json").write_text(json.dumps(settings, indent=1))


def trained_scope(name: str | Path) -> str:
    """The scope that a folder of `save` was trained for; "attention" for any other model."""
    settings = Path(name) / "zipr1.json"
    return (
        json.loads(settings.read_text()).get("scope", "attention")
        if settings.is_file()
        else "attention"
    )


def check_length(model, inputs, new_tokens: int) -> None:
    """Raises ValueError for a prompt that does not fit the model's positions together with its answer."""
    length, limit = (
        inputs["input_ids"].shape[1],
        model.config.get_text_config().max_position_embeddings,
    )
    if length + new_tokens > limit:
        raise ValueError(
            f"the prompt has {length} tokens and the answer up to {new_tokens}, the model {limit} positions: "
            "use a shorter question, a smaller picture or fewer frames"
        )


def decoder(model) -> torch.nn.Module:
    """The text decoder, the only part whose attention becomes sparse."""
    family = model.config.model_type
    check_family(family, type(model).__name__)
    return model.model.language_model if family in VISION_FAMILIES else model.model


def set_attention(model, implementation: str) -> None:
    """Of the text decoder only: the vision tower keeps its own."""
    vision = model.config.model_type in VISION_FAMILIES
    model.set_attn_implementation({"text_config": implementation} if vision else implementation)


def tokenizer_of(processor):
    """A text model's processor is its tokenizer."""
    return getattr(processor, "tokenizer", processor)
