"""Attention of consecutive queries to kept keys that all of them see, to a few more, and to their own.

Three softmaxes are merged by their log-sum-exp, as in flash attention (arXiv 2205.14135): that over
the common keys, which needs no mask, that over the next ones, and the own key's. torch's kernel for
CPUs gives the log-sum-exp, but no gradient of it.
"""

import torch

# Not public: scaled_dot_product_attention calls it and leaves the log-sum-exp out (torch 2.11 to 2.13).
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def mergeable(*states: torch.Tensor, **kwargs) -> bool:
    """Whether `prefix_attention` serves these states and keyword arguments of an attention."""
    plain = kwargs.get("softcap") is None and not kwargs.get("dropout")
    learned = torch.is_grad_enabled() and any(one.requires_grad for one in states)
    # Autocast would round the logits of the own keys.
    cpu = states[0].device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return plain and not learned and cpu


def prefix_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kept_key: torch.Tensor,
    kept_value: torch.Tensor,
    seen: torch.Tensor,
    least: int,
    scaling: float,
) -> torch.Tensor:
    """(B, Q, H, D): each query attends to the first `seen` (B, Q) kept keys and to its own.

    query (B, H, Q, D), key and value (B, Hkv, Q, D); kept_key and kept_value (B, Hkv, K, D), of
    which every query sees the first `least`.
    """
    grouped = query.unflatten(1, (key.shape[1], -1))  # (B, Hkv, H / Hkv, Q, D), which share a key
    flat = grouped.flatten(2, 3)  # (B, Hkv, H / Hkv * Q, D)
    parts = []
    if least:
        parts.append(FLASH(flat, kept_key[:, :, :least], kept_value[:, :, :least], scale=scaling))
    if least < kept_key.shape[2]:
        some = kept_key[:, :, least:], kept_value[:, :, least:]
        mask = hidden_mask(seen - least, some[0].shape[2], flat)
        parts.append(FLASH(flat, *some, attn_mask=mask, scale=scaling))
    exact = torch.promote_types(query.dtype, torch.float32)  # of logits, as within the kernel
    own = (grouped.to(exact) * key[:, :, None]).sum(-1, keepdim=True).mul_(scaling)
    out = value[:, :, None].expand_as(grouped)
    for found, total in parts:
        found, total = found.view_as(grouped), total.view_as(own)
        out = found.lerp_(out, torch.sigmoid(own - total).to(out.dtype))
        own = torch.logaddexp(own, total)
    return out.flatten(1, 2).transpose(1, 2)


def hidden_mask(seen: torch.Tensor, keys: int, flat: torch.Tensor) -> torch.Tensor:
    """(B, 1, N, keys), added to the logits of `flat` (B, Hkv, N, D): each query sees its first
    `seen` (B, Q) keys. Finite: a query that sees none has a log-sum-exp that outweighs nothing."""
    hidden = torch.arange(keys, device=flat.device) >= seen[:, :, None]
    mask = torch.zeros(hidden.shape, dtype=flat.dtype, device=flat.device)
    mask.masked_fill_(hidden, torch.finfo(flat.dtype).min / 2)
    return mask.repeat(1, flat.shape[2] // seen.shape[1], 1)[:, None]
