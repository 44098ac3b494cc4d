"""Layers of a decoder that stay dense, and the masks of all its layers.

Layers with a sliding window keep transformers' own attention and mask, those with linear attention
are not touched at all. Only layers with full attention (`Trace.layers`) become sparse.
"""

from collections.abc import Callable

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from zipr1.common.errors import InputError, RunError
from zipr1.sparsity.kernels import kernel_attention
from zipr1.sparsity.settings import NAME, ForwardPass


def register(name: str, function: Callable) -> None:
    """Registers an attention function for the layers that become sparse, and the masks for all.

    function: called as transformers calls it, with the pass (ForwardPass) as `current`.
    """

    def attention(module, query, key, value, attention_mask, **kwargs):
        get: Callable[[], ForwardPass] | None = kwargs.pop(NAME, None)
        if get is None:
            raise RunError(
                f"this model's attention is set to {name!r} outside of "
                "`with zipr1.sparse(model, rule)`"
            )
        current = get()
        states = query, key, value, attention_mask
        if module.layer_idx not in current.trace.layers:
            kernel = dense_name(module.config)
            if kernel == "sdpa":  # which refuses a soft cap
                return kernel_attention(module, *states, **kwargs), None
            return AttentionInterface()[kernel](module, *states, **kwargs)
        return function(module, *states, current=current, **kwargs)

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, layer_mask)


def dense_name(config) -> str:
    """The attention function of layers that stay dense; "eager" is not registered, and sdpa
    computes the same."""
    name = config._attn_implementation.dense
    return "sdpa" if name == "eager" else name


def layer_mask(mask_function, attention_mask: torch.Tensor | None = None, *, config, **kwargs):
    """The mask interface: the 2-D padding mask (B, tokens seen) where attention is causal, since
    the sparse attention function makes its own causal mask; else transformers' own mask."""
    if mask_function is causal_mask_function:
        return attention_mask
    stock = AttentionMaskInterface()[dense_name(config)]
    return stock(
        mask_function=mask_function, attention_mask=attention_mask, config=config, **kwargs
    )


def padding_of(attention_mask: torch.Tensor | None, current: ForwardPass) -> torch.Tensor | None:
    """The padding mask (B, L) of a layer's mask in a prefill; None for no padding.

    attention_mask: None, (B, L), or (B, 1, L, L) bool where tokens attend to later ones too, such
    as those of an image of Gemma 3. Sets `current.visible`, once a pass. Raises InputError for a
    mask that hides earlier tokens.
    """
    if attention_mask is None or attention_mask.ndim == 2:
        return attention_mask
    if current.padding is None:
        check_custom(attention_mask)
        visible = attention_mask[:, 0]
        if visible.shape[1] != visible.shape[2]:
            raise refused(attention_mask)
        current.padding = real = visible.diagonal(dim1=1, dim2=2)
        own = torch.eye(visible.shape[1], dtype=torch.bool, device=visible.device)
        causal = torch.ones_like(own).tril() & real[:, None] & real[:, :, None]
        # One device synchronisation a pass.
        hidden, later = torch.stack([(causal & ~visible).any(), (visible & ~causal).any()]).tolist()
        if hidden:
            raise refused(attention_mask)
        current.visible = visible & real[:, :, None] | own if later else None
    return current.padding


def new_padding(attention_mask: torch.Tensor | None, new: int) -> torch.Tensor | None:
    """The padding mask (B, new) of the new tokens of a later turn; None for no padding.

    Raises InputError where a new token attends to a later one: the cache has no place for that.
    """
    if attention_mask is None or attention_mask.ndim == 2:
        return None if attention_mask is None else attention_mask[:, -new:].bool()
    check_custom(attention_mask)
    visible = attention_mask[:, 0, :, -new:]
    real = visible.diagonal(dim1=1, dim2=2)
    causal = torch.ones_like(visible[0]).tril() & real[:, None] & real[:, :, None]
    if not torch.equal(visible & real[:, :, None], causal):
        raise InputError(
            "tokens of a later turn attend to later tokens, as those of an image of Gemma 3 do, "
            "which a sparse KV cache does not support: give the images in the first turn"
        )
    return real


def check_custom(attention_mask: torch.Tensor) -> None:
    """Raises InputError unless a mask is (B, 1, Q, K) bool."""
    if (
        attention_mask.ndim != 4
        or attention_mask.dtype != torch.bool
        or attention_mask.shape[1] > 1
    ):
        raise refused(attention_mask)


def refused(attention_mask: torch.Tensor) -> InputError:
    return InputError(
        f"attention_mask has shape {tuple(attention_mask.shape)} and hides more than padding: "
        "packed or custom masks are not supported by sparse attention; pass the 2-D padding mask "
        "(B, L)"
    )
