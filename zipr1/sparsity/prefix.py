"""Attention of consecutive queries to kept keys that all of them see, to a few more, and to their own.

Two softmaxes are merged by their log-sum-exp, as in flash attention (arXiv 2205.14135): that over
the common keys, which needs no mask, and that over the rest. torch's kernel for CPUs gives the
log-sum-exp, but no gradient of it.
"""

import torch

# Not public: scaled_dot_product_attention calls it and leaves the log-sum-exp out (torch 2.11 to 2.13).
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def mergeable(*states: torch.Tensor, **kwargs) -> bool:
    """Whether `prefix_attention` serves these states and keyword arguments of an attention."""
    plain = kwargs.get("softcap") is None and not kwargs.get("dropout")
    learned = torch.is_grad_enabled() and any(one.requires_grad for one in states)
    # Autocast would round the logits of one of the two softmaxes.
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
    shape, heads = query.shape, key.shape[1]
    grouped = query.unflatten(1, (heads, -1))  # (B, Hkv, H / Hkv, Q, D), which share a key
    flat = grouped.flatten(2, 3)  # (B, Hkv, H / Hkv * Q, D)
    exact = torch.promote_types(query.dtype, torch.float32)  # of logits, as within the kernel
    own = (grouped.to(exact) * key[:, :, None]).sum(-1, keepdim=True).mul_(scaling)
    out, total = value[:, :, None].expand_as(grouped), own
    if least < kept_key.shape[2]:
        some = flat.to(exact) @ kept_key[:, :, least:].to(exact).mT
        some = some.view(*grouped.shape[:4], -1).mul_(scaling)
        hidden = torch.arange(least, kept_key.shape[2]) >= seen[:, :, None]  # (B, Q, K - least)
        some.masked_fill_(hidden[:, None, None], float("-inf"))
        most = torch.maximum(some.amax(-1, keepdim=True), own)
        some, own = some.sub_(most).exp_(), own.sub_(most).exp_()
        mass = some.sum(-1, keepdim=True).add_(own)
        some, own = some.div_(mass).to(query.dtype), own.div_(mass).to(query.dtype)
        seen_values = some.flatten(2, 3) @ kept_value[:, :, least:]
        out = torch.addcmul(seen_values.view_as(grouped), own, out)
        total = mass.log_().add_(most)
    if least:
        common = kept_key[:, :, :least], kept_value[:, :, :least]
        rest, found = FLASH(flat, *common, scale=scaling)
        share = torch.sigmoid(total - found.view_as(total)).to(out.dtype)
        out = rest.view_as(out).lerp_(out, share)
    return out.reshape(shape).transpose(1, 2)
