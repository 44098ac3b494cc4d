"""`zipr1.sparse`: the block in which a model is sparse."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import DynamicCache

from zipr1.common.errors import InputError, RunError
from zipr1.common.scope import SCOPES, Scope
from zipr1.models.families import decoder, set_attention, visual_columns
from zipr1.models.positions import corrected_positions
from zipr1.models.versions import CACHE, take_cache
from zipr1.sparsity import attention  # noqa: F401 - registers the attention function
from zipr1.sparsity.cache import make_sparse
from zipr1.sparsity.rules import Rule
from zipr1.sparsity.settings import NAME, ForwardPass, Settings, TrainingPass
from zipr1.sparsity.trace import Trace


@contextmanager
def sparse(
    model,
    rule: Rule,
    *,
    rows: Rule | None = None,
    scope: Scope = "attention",
    keep_kv: bool = False,
    min_tokens: int = 0,
    prompt_length: int | None = None,
    training: TrainingPass | None = None,
) -> Iterator[Trace]:
    """Makes every forward and generate() of `model` sparse inside the block.

    Leaving the block restores the model exactly, also after an error. Every pass that starts a
    sequence selects tokens by `rule` and writes the trace anew. Later passes on its KV cache attend
    to what was kept.

    rule: selects the tokens that are kept as keys: the KV cache holds those.
    rows: selects the queries that are computed; None for the same tokens. A query attends to the
        kept keys before it and to its own key, and a token whose row is not computed can still
        leave its key (`sparsity.separate`).
    scope: "attention" is ZipVL. Under "layer", dropped tokens also skip the output projection and
        the MLP of that layer, so that the layer's time follows the token ratio
        (`sparsity.layer_scope`); a model that was not trained for it loses accuracy. Under "keys",
        tokens are dropped as keys only: every query is computed (`sparsity.separate`), and the KV
        cache keeps T as under the other scopes.
    keep_kv: the KV cache keeps every prompt token: only the prefill is sparse, for chats whose
        later turns may need the dropped tokens.
    min_tokens: shorter prompts stay dense; the trace shows a ratio of 1 for them.
    prompt_length: columns of the batch that are the prompt. The others are completion tokens, which
        are never dropped, so that one pass over (prompt, completion) equals prefill and decoding.
        None: all columns are the prompt.
    training: what only a trainer sets.
    """
    if scope not in SCOPES:
        raise InputError(f"scope={scope!r}: expected one of {', '.join(SCOPES)}")
    settings = Settings(
        rule, rows, scope, keep_kv, min_tokens, prompt_length, training or TrainingPass()
    )
    text = decoder(model)
    trace = Trace()
    kept_rows = settings.training.kept_rows() if scope == "layer" else None
    before = text.config._attn_implementation
    if before.startswith(NAME):
        raise RunError("the model is inside a block of zipr1.sparse already: leave that one first")

    visual = None  # of the pass that has begun; the decoder takes it

    def note_visual(module, args, kwargs):
        nonlocal visual
        visual = visual_columns(model.config, args[0] if args else kwargs.get("input_ids"))

    def start_pass(module, args, kwargs):
        nonlocal visual
        kwargs = dict(kwargs)
        attentions = kwargs.get("output_attentions")
        if attentions or (attentions is None and text.config.output_attentions):
            raise InputError(
                "output_attentions: sparse attention makes no full score matrix; leave the block, "
                "and load the model with attn_implementation='eager'"
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
            for entries in (trace.kept, trace.rows, trace.relaxed, trace.flipped):
                entries.clear()
            trace.cache = None if cache is None else weakref.ref(cache)
        current = ForwardPass(settings, trace, cache, past, kept_rows, visual=visual)
        visual = None
        # A function, since FSDP2 copies every dataclass among a layer's arguments.
        kwargs[NAME] = lambda: current
        return args, kwargs

    inside = True

    def guard(module, args, output):
        """A checkpointed layer recomputed outside the block would run dense: a wrong gradient."""

        def check(gradient):
            if not inside:
                raise RunError(
                    "gradient checkpointing: call backward() inside the `with zipr1.sparse(...)` "
                    "block"
                )

        if output[0].requires_grad and any(
            getattr(part, "gradient_checkpointing", False) for part in module.modules()
        ):
            output[0].register_hook(check)

    handles = [
        model.register_forward_pre_hook(note_visual, with_kwargs=True),
        text.register_forward_pre_hook(start_pass, with_kwargs=True),
        text.register_forward_hook(guard),
    ]
    handles += kept_rows.attach(text.layers) if kept_rows is not None else []
    try:
        set_attention(model, settings.training.implementation)
        with corrected_positions(model):
            yield trace
    finally:
        inside = False
        for handle in handles:
            handle.remove()
        set_attention(model, before)
