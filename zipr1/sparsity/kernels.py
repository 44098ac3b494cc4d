"""The attention kernel of gathered tokens: torch's fused one, or transformers' where logits are
capped."""

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward


def kernel_attention(
    module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    softcap: float | None = None,
    **kwargs,
) -> torch.Tensor:
    """(B, Q, H, D), contiguous.

    query (B, H, Q, D), key and value (B, Hkv, K, D). mask (B or 1, 1, Q, K) bool: what a query
    sees; None: causal, with Q equal to K, or one query that sees every key. softcap: of an
    attention that caps its logits as softcap * tanh(logits / softcap) (Gemma 2, arXiv 2408.00118).
    No kernel of torch's SDPA does that, so that the score matrix is in memory, as in the eager
    attention of such a model.
    """
    if softcap is None:
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
    # Imported where it is needed, since most models do not.
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    if mask is None:
        shape = query.shape[2], key.shape[2]
        mask = torch.ones(shape, dtype=torch.bool, device=query.device)
        mask = mask.tril() if shape[0] > 1 else mask
    # The softmax is computed in float32, in which the least float64 would be infinite.
    least = max(torch.finfo(query.dtype).min, torch.finfo(torch.float32).min)
    bias = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
    bias.masked_fill_(~mask, least)
    states = module, query, key, value
    return eager_attention_forward(*states, bias, softcap=softcap, **kwargs)[0]
