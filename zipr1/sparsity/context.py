"""The context in which a model is sparse."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from transformers import (
    DynamicCache,
)

from zipr1.models.families import decoder, set_attention
from zipr1.models.versions import CACHE, take_cache
from zipr1.sparsity.attention import NAME, Call, Trace
from zipr1.sparsity.cache import make_sparse
from zipr1.sparsity.layer_scope import KeptRows
from zipr1.sparsity.rules import Rule


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
        so that the whole layer's time follows the token ratio (`sparsity.layer_scope`); a model not trained for it loses accuracy.
    keep_kv: the KV cache keeps every prompt token: sparse in prefill only, for chats whose later turns may need them.
    prompt_length: columns of the batch that are the prompt; the others are completion tokens, never dropped, so that one
        pass over (prompt, completion) equals prefill and decoding. None: all columns are prompt.
    replay: the choice of an earlier trace (`trace.kept`), used instead of a fresh one.
    relax: record a differentiable token ratio (`trace.relaxed_ratio`) by this function: `zipr1.relaxed_count`, with a floor
        by functools.partial.
    min_tokens: prompts shorter than this stay dense; the trace shows a ratio of 1 for them.
    numbers: (B,) a number of each sample, by which a pass that learns the choice under scope "layer" asks other rows
        (`training.choice_gradient`).
    implementation: name of the attention function; `zipr1.sparsity.naive` registers a slow one that is the oracle of the tests.
    """
    if scope not in ("attention", "layer"):
        raise ValueError(f"scope={scope!r}: expected 'attention' or 'layer'")
    text = decoder(model)
    trace = Trace()
    rows = KeptRows() if scope == "layer" else None
    before = text.config._attn_implementation
    if before.startswith(NAME):
        raise RuntimeError(
            "the model is inside a block of zipr1.sparse already: leave that one first"
        )

    def set_call(module, args, kwargs):
        kwargs = dict(kwargs)
        if kwargs.get("output_attentions") or (
            kwargs.get("output_attentions") is None and text.config.output_attentions
        ):
            raise ValueError(
                "output_attentions: sparse attention makes no full score matrix; leave the block, and load the model with "
                "attn_implementation='eager'"
            )
        cache = take_cache(kwargs)
        use_cache = kwargs.get("use_cache")
        if cache is None and (text.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=text.config)
        past = 0
        if cache is not None:
            kwargs[CACHE] = cache
            make_sparse(cache)
            past = cache.get_seq_length()
        if past == 0:
            for entries in (trace.kept, trace.relaxed, trace.flipped):
                entries.clear()
            trace.cache = None if cache is None else weakref.ref(cache)
        call = Call(
            rule,
            trace,
            cache,
            past,
            prompt_length,
            replay,
            relax,
            min_tokens,
            keep_kv,
            numbers=numbers,
            rows=rows,
        )
        kwargs[NAME] = lambda: (
            call
        )  # FSDP2 copies whatever dataclass it finds among a layer's arguments, and the trace in it
        return args, kwargs

    inside = True

    def guard(module, args, output):
        """A checkpointed layer that is recomputed outside the block would run dense: a wrong gradient without a word."""

        def check(gradient):
            if not inside:
                raise RuntimeError(
                    "gradient checkpointing: call backward() inside the `with zipr1.sparse(...)` block"
                )

        if output[0].requires_grad and any(
            getattr(part, "gradient_checkpointing", False) for part in module.modules()
        ):
            output[0].register_hook(check)

    handles = [
        text.register_forward_pre_hook(set_call, with_kwargs=True),
        text.register_forward_hook(guard),
    ]
    handles += rows.follow(text.layers) if rows is not None else []
    try:
        set_attention(model, implementation)
        yield trace
    finally:
        inside = False
        for handle in handles:
            handle.remove()
        set_attention(model, before)
