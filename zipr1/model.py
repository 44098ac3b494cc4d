"""Loading and saving a model, and the context in which it is sparse."""

import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    DynamicCache,
)
from transformers.utils.peft_utils import find_adapter_config_file

from zipr1.attention import NAME, Call, Trace
from zipr1.cache import make_sparse
from zipr1.inputs import tokenizer_of
from zipr1.scope import KeptRows
from zipr1.selection import Rule

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
        kwargs.setdefault("dtype", torch.float32)  # stored in half precision, which a CPU computes ten times slower
    if not Path(source).is_dir() and str(source).count("/") != 1:
        raise FileNotFoundError(f"{name}: neither a model folder nor a hub id (owner/name)")
    if (Path(source) / "final").is_dir() and not (Path(source) / "config.json").exists():
        raise FileNotFoundError(f"{name}: the folder of a run, not of a model: give {Path(source) / 'final'}")
    if is_adapter(source):
        return load_adapter(str(source), **kwargs)
    family = load_config(name).model_type
    vision = family in VISION_FAMILIES
    try:
        model = (AutoModelForImageTextToText if vision else AutoModelForCausalLM).from_pretrained(source, **kwargs)
    except SafetensorError as error:
        raise OSError(f"{name}: its weights cannot be read ({error}); download or save them again") from error
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
    processor = (AutoProcessor if family in VISION_FAMILIES else AutoTokenizer).from_pretrained(source)
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
        raise ValueError(f"{name}: a text model ({model.config.model_type}) sees no pictures; use a Qwen-VL model")
    return model, processor


def check_family(family: str, name: str | Path) -> None:
    """Raises ValueError for a model family whose doors were not checked."""
    if family not in VISION_FAMILIES + TEXT_FAMILIES:
        known = ", ".join(VISION_FAMILIES + TEXT_FAMILIES)
        raise ValueError(f"{name}: model family {family!r} is not supported; use one of {known}")


def save(model, processor, folder: Path, settings: dict | None = None, weights: dict | None = None) -> None:
    """A plain transformers folder, or that of an adapter, with the rule it was trained for in zipr1.json. `weights` replace the
    model's own."""
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    if settings is not None:
        (Path(folder) / "zipr1.json").write_text(json.dumps(settings, indent=1))


def trained_scope(name: str | Path) -> str:
    """The scope that a folder of `save` was trained for; "attention" for any other model."""
    settings = Path(name) / "zipr1.json"
    return json.loads(settings.read_text()).get("scope", "attention") if settings.is_file() else "attention"


def check_length(model, inputs, new_tokens: int) -> None:
    """Raises ValueError for a prompt that does not fit the model's positions together with its answer."""
    length, limit = inputs["input_ids"].shape[1], model.config.get_text_config().max_position_embeddings
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


@contextmanager
def sparse(
    model,
    rule: Rule,
    *,
    scope: Literal["attention", "layer"] = "attention",
    keep_kv: bool = False,
    prompt_length: int | None = None,
    replay: list[torch.Tensor] | None = None,
    relax: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    min_tokens: int = 0,
    numbers: Sequence[int] | None = None,
    implementation: str = NAME,
) -> Iterator[Trace]:
    """Makes every forward and generate() of `model` sparse inside the block; leaves it exactly as it was, also on errors.

    Every pass that starts a sequence selects tokens by `rule` and writes the trace anew. Later passes on its cache see
    only what was kept.

    scope: "attention" is ZipVL. "layer": tokens outside T skip the output projection and the MLP of that layer as well,
        so that the whole layer's time follows the token ratio (`zipr1.scope`); a model not trained for it loses accuracy.
    keep_kv: the KV cache keeps every prompt token: sparse in prefill only, for chats whose later turns may need them.
    prompt_length: columns of the batch that are the prompt; the others are completion tokens, never dropped, so that one
        pass over (prompt, completion) equals prefill and decoding. None: all columns are prompt.
    replay: the choice of an earlier trace (`trace.kept`), used instead of a fresh one.
    relax: record a differentiable token ratio (`trace.relaxed_ratio`) by this function: `zipr1.relaxed_count`, with a floor
        by functools.partial.
    min_tokens: prompts shorter than this stay dense; the trace shows a ratio of 1 for them.
    numbers: (B,) a number of each sample, by which a pass that learns the choice under scope "layer" asks other rows
        (`zipr1.scope.asked_rows`).
    implementation: name of the attention function; `zipr1.reference` registers a slow one that is the oracle of the tests.
    """
    if scope not in ("attention", "layer"):
        raise ValueError(f"scope={scope!r}: expected 'attention' or 'layer'")
    text = decoder(model)
    trace = Trace()
    rows = KeptRows() if scope == "layer" else None
    before = text.config._attn_implementation
    if before.startswith(NAME):
        raise RuntimeError("the model is inside a block of zipr1.sparse already: leave that one first")

    def set_call(module, args, kwargs):
        kwargs = dict(kwargs)
        if kwargs.get("output_attentions") or (kwargs.get("output_attentions") is None and text.config.output_attentions):
            raise ValueError(
                "output_attentions: sparse attention makes no full score matrix; leave the block, and load the model with "
                "attn_implementation='eager'"
            )
        cache = kwargs.get("past_key_values")
        use_cache = kwargs.get("use_cache")
        if cache is None and (text.config.use_cache if use_cache is None else use_cache):
            cache = kwargs["past_key_values"] = DynamicCache(config=text.config)
        past = 0
        if cache is not None:
            make_sparse(cache)
            past = cache.get_seq_length()
        if past == 0:
            for entries in (trace.kept, trace.relaxed, trace.flipped):
                entries.clear()
            trace.cache = None if cache is None else weakref.ref(cache)
        call = Call(rule, trace, cache, past, prompt_length, replay, relax, min_tokens, keep_kv, numbers=numbers, rows=rows)
        kwargs[NAME] = lambda: call  # FSDP2 copies whatever dataclass it finds among a layer's arguments, and the trace in it
        return args, kwargs

    inside = True

    def guard(module, args, output):
        """A checkpointed layer that is recomputed outside the block would run dense: a wrong gradient without a word."""

        def check(gradient):
            if not inside:
                raise RuntimeError("gradient checkpointing: call backward() inside the `with zipr1.sparse(...)` block")

        if output[0].requires_grad and any(getattr(part, "gradient_checkpointing", False) for part in module.modules()):
            output[0].register_hook(check)

    handles = [text.register_forward_pre_hook(set_call, with_kwargs=True), text.register_forward_hook(guard)]
    handles += rows.follow(text.layers) if rows is not None else []
    try:
        set_attention(model, implementation)
        yield trace
    finally:
        inside = False
        for handle in handles:
            handle.remove()
        set_attention(model, before)
