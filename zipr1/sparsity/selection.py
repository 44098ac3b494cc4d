"""Which tokens take part in one layer: the choice of the rule, or a replayed one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from zipr1.common.errors import InputError
from zipr1.sparsity.faults import Faults, checked_choice
from zipr1.sparsity.probes import Scores, find_probes, picked_scores, probe_ranks
from zipr1.sparsity.rules import TopP
from zipr1.sparsity.settings import ForwardPass, Settings
from zipr1.sparsity.trace import record


class Selection(NamedTuple):
    """kept: (B, L) bool, the tokens that take part: the choice, and every completion token.

    rows: (B, L) bool, the queries that are computed, if they are selected separately, else None.
    scores: what the rule chose by; None for prompts below `min_tokens`.
    faults: of the choices, for the caller to check together with its own device synchronisation.
    """

    kept: torch.Tensor
    rows: torch.Tensor | None
    scores: Scores | None
    faults: tuple[Faults, ...]


class Probed(NamedTuple):
    """queries (B, H, P, D) of the probes and key (B, Hkv, L, D) of all tokens, after rotary
    embedding; scaling: of their products; softcap: of the logits, None where there is none."""

    queries: torch.Tensor
    key: torch.Tensor
    scaling: float
    softcap: float | None


def select_tokens(
    layer: int,
    probed: Callable[[torch.Tensor], Probed],
    dtype: torch.dtype,
    attention_mask: torch.Tensor,
    current: ForwardPass,
) -> Selection:
    """The selection of the decoder's layer `layer`, which is sparse, in a prefill.

    probed: from positions (B, P), what the attention there comes from; called if the rule asks.
    dtype: of the layer's states. attention_mask: (B, L) bool.

    Writes the trace. Raises InputError for a replayed choice that does not fit.
    """
    settings, trace, training = current.settings, current.trace, current.settings.training
    prompt, end = prompt_columns(attention_mask, current.prompt_length)
    lengths, number = prompt.sum(-1), trace.layers.index(layer)

    def attention() -> tuple[torch.Tensor, torch.Tensor]:
        if current.probes is None or current.probes.prompt.device != prompt.device:
            ranks = probe_ranks(lengths, prompt.shape[1])
            current.probes = find_probes(ranks, prompt, current.visible)
        queries, key, *scales = probed(current.probes.positions)
        return picked_scores(queries, key, current.probes, *scales)

    # A copy, since a rule may change in place what it is given.
    earlier = tuple(trace.kept[:number])
    scores = Scores(attention, prompt.clone(), number, earlier, current.visual)
    trace.lengths = lengths
    short = prompt.shape[1] < settings.min_tokens
    if short and training.replay is None and training.relax is None:
        record(trace.kept, number, prompt[:, :end])
        faults = (Faults(settings.rule, layer, prompt, prompt),)
        return Selection(attention_mask, None, None, faults)

    # The scores get a graph only if the relaxed count reads them first, outside of no_grad.
    if training.relax is not None:
        record(trace.relaxed, number, relaxed(scores, current))
    with torch.no_grad():
        chosen = checked_choice(settings.rule, scores)
        if settings.min_tokens:
            chosen = torch.where((lengths < settings.min_tokens)[:, None], prompt, chosen)
        if training.replay is not None:
            fresh, chosen = chosen, replayed(training.replay[number], prompt, layer)
            record(trace.flipped, number, (chosen & ~fresh).sum(-1) / chosen.sum(-1))
        record(trace.kept, number, chosen[:, :end])
        faults = (Faults(settings.rule, layer, chosen, prompt, dtype, scores),)
        rows = None
        if settings.separate:
            rows = query_rows(settings, scores, prompt)
            if settings.rows is not None:
                faults += (Faults(settings.rows, layer, rows, prompt),)
            record(trace.rows, number, (rows & prompt)[:, :end])
            rows = rows | (attention_mask & ~prompt)
        return Selection(chosen | (attention_mask & ~prompt), rows, scores, faults)


def query_rows(settings: Settings, scores: Scores, prompt: torch.Tensor) -> torch.Tensor:
    """(B, L) bool: the queries that are computed, where they are selected separately."""
    if settings.scope == "keys":
        return torch.ones_like(prompt)
    if settings.rows is None:
        chosen = settings.rule.keep_rows(scores)
    else:
        chosen = checked_choice(settings.rows, scores)
    if settings.min_tokens:
        chosen = torch.where((prompt.sum(-1) < settings.min_tokens)[:, None], prompt, chosen)
    return chosen


def prompt_columns(
    attention_mask: torch.Tensor, prompt_length: int | Sequence[int] | None
) -> tuple[torch.Tensor, int]:
    """(B, L) bool, the tokens of the prompts, and the number of columns they lie in.

    Raises InputError for a list of lengths that does not fit the batch.
    """
    batch, length = attention_mask.shape
    if prompt_length is None:
        return attention_mask.clone(), length
    lengths = [prompt_length] if isinstance(prompt_length, int) else list(prompt_length)
    if len(lengths) not in (1, batch):
        raise InputError(
            f"prompt_length has {len(lengths)} values for a batch of {batch}: give one number, or "
            "one per row (num_beams and num_return_sequences repeat each row)"
        )
    ends = torch.tensor(lengths, device=attention_mask.device)[:, None]
    columns = torch.arange(length, device=attention_mask.device)
    return attention_mask & (columns < ends), min(max(lengths), length)


def relaxed(scores: Scores, current: ForwardPass) -> torch.Tensor:
    """(B,) the differentiable count that the training pass asks for."""
    rule = current.settings.rule
    if not isinstance(rule, TopP):
        raise InputError(
            f"{type(rule).__name__} has no threshold: the relaxed count is defined for TopP"
        )
    count = current.settings.training.relax
    return count(scores.accumulated, rule.thresholds(scores), scores.valid)


def replayed(choice: torch.Tensor, prompt: torch.Tensor, layer: int) -> torch.Tensor:
    """(B, L): a recorded choice (B, prompt columns), checked against this batch."""
    if len(choice) != len(prompt):
        raise InputError(f"replay has {len(choice)} rows for a batch of {len(prompt)}")
    chosen = torch.zeros_like(prompt)
    chosen[:, : choice.shape[1]] = choice
    if bool((chosen & ~prompt).any()):
        raise InputError(f"layer {layer}: the replayed choice keeps padding or completion tokens")
    return chosen
