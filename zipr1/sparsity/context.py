"""`zipr1.sparse`: the block in which a model is sparse."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES, Scope
from zipr1.models.families import inner_model
from zipr1.sparsity.block import Block
from zipr1.sparsity.rules import Rule, check_count, check_rule
from zipr1.sparsity.settings import Settings, TrainingPass
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
    prompt_length: int | Sequence[int] | None = None,
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
    scope: "attention" is ZipVL. Under "layer", dropped tokens skip the whole layer but for their
        keys, so that its time follows the token ratio (`sparsity.gathered`); a model that was not
        trained for it loses accuracy. Under "keys", tokens are dropped as keys only: every query is
        computed (`sparsity.separate`), and the KV cache keeps T as under the other scopes.
    keep_kv: the KV cache keeps every prompt token: only the prefill is sparse, for chats whose
        later turns may need the dropped tokens.
    min_tokens: shorter prompts stay dense; the trace shows a ratio of 1 for them.
    prompt_length: columns of the batch that are the prompt, or a number for each row. The others
        are completion tokens, which are never dropped, so that one pass over (prompt, completion)
        equals prefill and decoding. None: read from the call, as trainers make it: up to the first
        label that is not -100, or to the first position whose logits `logits_to_keep` asks for; a
        pass for a loss (gradients in training mode, or `num_items_in_batch`) that has neither is
        refused; of any other pass, and of a classifier, all columns are the prompt.
    training: what only a trainer sets.

    The block belongs to the thread or asyncio task that opened it and to those started since
    (`sparsity.threads`).
    Copies of the model made inside are dense.
    """
    if not (isinstance(model, torch.nn.Module) and hasattr(inner_model(model), "config")):
        raise InputError(
            f"model={str(model)[:60]!r}: expected a transformers model; `model, processor = "
            "zipr1.load(name)` gives one"
        )
    check_arguments(rule, rows, scope, keep_kv, min_tokens)
    lengths = checked_lengths(prompt_length)
    training = training or TrainingPass()
    block = Block(model, Settings(rule, rows, scope, keep_kv, min_tokens, lengths, training))
    try:
        try:
            block.open()
            yield block.trace
        finally:
            block.close()
    finally:
        block.close()  # again, where Ctrl-C came before close() began


def check_arguments(
    rule: Rule, rows: Rule | None, scope: str, keep_kv: bool, min_tokens: int
) -> None:
    """Raises InputError for an argument of `sparse` that has another type or value."""
    check_rule("rule", rule)
    if rows is not None:
        check_rule("rows", rows)
    check_count("min_tokens", min_tokens)
    if not isinstance(keep_kv, bool):
        raise InputError(f"keep_kv={keep_kv!r}: expected True or False")
    if scope not in SCOPES:
        raise InputError(f"scope={scope!r}: expected one of {', '.join(SCOPES)}")


def checked_lengths(prompt_length) -> int | list[int] | None:
    """`prompt_length` without tensors. Raises InputError for numbers below 1."""
    if prompt_length is None:
        return None
    if isinstance(prompt_length, torch.Tensor):
        prompt_length = prompt_length.tolist()
    numbers = prompt_length if isinstance(prompt_length, (list, tuple)) else [prompt_length]
    if not numbers or any(type(number) is not int or number < 1 for number in numbers):
        raise InputError(
            f"prompt_length={prompt_length!r}: expected a number of columns, at least 1, or one "
            "per row"
        )
    return prompt_length
