"""vLLM's own model classes, subclassed for what attention alone cannot do.

scope "layer" (hooks on output projection and MLP), block tables per bucket of layers, and the
positions after a video of models that were trained on those of transformers 5. A model of another
architecture is served by vLLM's class: scopes "attention" and "keys", one block table.
"""

import importlib
from functools import cache
from types import ModuleType

import torch
from torch import nn
from vllm import ModelRegistry
from vllm.model_executor.layers.attention import Attention

from zipr1.common.errors import InputError
from zipr1.models.positions import FAMILIES, visual_positions
from zipr1.vllm.checks import ARCHITECTURES, no_layer_scope
from zipr1.vllm.worker import KeptRows, worker_state

MOST_BUCKETS = 6


def register_models() -> None:
    for name in ARCHITECTURES:
        ModelRegistry.register_model(name, f"{__name__}:Sparse{name}")


def __getattr__(name: str) -> type:
    """The subclass of an architecture, made when vLLM asks for it."""
    stock = name.removeprefix("Sparse")
    if name == stock or stock not in ARCHITECTURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made = subclass(getattr(module_of(stock), stock), name)
    return made


def module_of(architecture: str) -> ModuleType:
    return importlib.import_module(f"vllm.model_executor.models.{ARCHITECTURES[architecture]}")


def subclass(stock: type, name: str) -> type:
    class Sparse(stock):
        def __init__(self, *, vllm_config, prefix: str = ""):
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            config = vllm_config.kv_transfer_config
            if config is not None and config.kv_connector == "Zipr1Connector":
                adapt(self, vllm_config)

    if ARCHITECTURES[stock.__name__] in FAMILIES:
        Sparse.get_mrope_input_positions = positions_of(stock.get_mrope_input_positions)
    Sparse.__name__ = Sparse.__qualname__ = name
    Sparse.__module__ = __name__
    return Sparse


def adapt(model: nn.Module, vllm_config) -> None:
    """Prepares the decoder layers, once: Qwen-VL makes its decoder as a model of its own."""
    layers = [
        module
        for module in model.modules()
        if isinstance(attention_of(module), Attention) and hasattr(module, "mlp")
    ]
    layers = [
        layer for layer in layers if not hasattr(attention_of(layer).attn_backend, "bucketed")
    ]
    extra = vllm_config.kv_transfer_config.kv_connector_extra_config
    total = vllm_config.model_config.hf_text_config.num_hidden_layers
    buckets = extra.get("buckets") or bucket_count(total)
    for layer in layers:
        attention = attention_of(layer)
        number = int(attention.layer_name.split(".layers.")[-1].split(".")[0])
        bucket = number * buckets // total
        attention.attn_backend = in_bucket(attention.attn_backend, bucket)
        if no_layer_scope(vllm_config) is None:
            attach(layer)


def attention_of(layer: nn.Module) -> nn.Module | None:
    return getattr(getattr(layer, "self_attn", None), "attn", None)


def bucket_count(layers: int) -> int:
    """The most buckets of equal size, so that vLLM pads no block table."""
    return max(n for n in range(1, MOST_BUCKETS + 1) if layers % n == 0)


@cache
def in_bucket(backend: type, bucket: int) -> type:
    """The backend for the layers of one bucket; vLLM groups layers by it."""
    name = f"{backend.__qualname__}{bucket}"
    names = {"bucket": bucket, "bucketed": True, "__qualname__": name, "__module__": __name__}
    return type(name, (backend,), names)


def attach(layer: nn.Module) -> None:
    """Leaves dropped rows out of the output projection and the MLP; they get zeros."""
    for module in (layer.self_attn.o_proj, layer.mlp):
        module.register_forward_pre_hook(gather)
        module.register_forward_hook(scatter)


def kept_rows() -> KeptRows | None:
    worker = worker_state()
    return None if worker is None else worker.kept_rows


def gather(module: nn.Module, args: tuple) -> tuple | None:
    """Forward pre-hook: (N, D) -> (K, D)."""
    kept = kept_rows()
    if kept is None or kept.rows is None:
        return None
    return (args[0].index_select(0, kept.rows), *args[1:])


def scatter(module: nn.Module, args: tuple, output):
    """Forward hook: (K, D) -> (N, D); vLLM's linear layers return a tuple."""
    kept = kept_rows()
    if kept is None or kept.rows is None:
        return output
    part = output[0] if isinstance(output, tuple) else output
    full = part.new_zeros(kept.total, part.shape[-1]).index_copy_(0, kept.rows, part)
    return (full, *output[1:]) if isinstance(output, tuple) else full


def positions_of(stock):
    """vLLM's positions, or those that `positions_after_video` in config.json asks for."""

    def get_mrope_input_positions(self, input_tokens, mm_features):
        after = getattr(self.config, "positions_after_video", "any axis")
        if after == "any axis":
            return stock(self, input_tokens, mm_features)
        if after != "spatial":
            raise InputError(
                f"config.json: positions_after_video={after!r}: expected 'any axis' or 'spatial'"
            )
        return spatial_positions(len(input_tokens), self.iter_mm_grid_thw(mm_features))

    return get_mrope_input_positions


def spatial_positions(length: int, media) -> tuple[torch.Tensor, int]:
    """Positions (3, length) and the delta of the next token, as generate() of transformers 5 has
    them: there, tokens go on after the last one of the prompt, whatever the largest position is.

    media: (offset, time, height, width, temporal positions per step) of each image or video.
    """
    parts, start, done = [], 0, 0
    for offset, time, height, width, step in media:
        text = torch.arange(offset - done).expand(3, -1)
        parts += [text + start, visual_positions((time, height, width), step, 1) + start]
        parts[-1] += offset - done
        start += offset - done + max(height, width)
        done = offset + time * height * width
    parts.append(torch.arange(length - done).expand(3, -1) + start)
    positions = torch.cat(parts, dim=1)
    return positions, int(positions[:, -1].max()) + 1 - length
