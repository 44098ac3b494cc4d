"""Which tokens take part in one layer: the choice of the rule, or a replayed one."""

from typing import NamedTuple

import torch

from zipr1.common.errors import InputError
from zipr1.sparsity.probes import Scores, find_probes, probe_ranks, probe_scores
from zipr1.sparsity.rules import TopP
from zipr1.sparsity.settings import ForwardPass, Settings
from zipr1.sparsity.trace import record


class Selection(NamedTuple):
    """kept: (B, L) bool, the tokens that take part: the choice, and every completion token.

    rows: (B, L) bool, the queries that are computed, if they are selected separately, else None.
    scores: what the rule chose by; None for prompts below `min_tokens`.
    """

    kept: torch.Tensor
    rows: torch.Tensor | None
    scores: Scores | None


def select_tokens(
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    current: ForwardPass,
) -> Selection:
    """The selection of the sparse layer number `layer` in a prefill.

    query (B, H, L, D), key (B, Hkv, L, D) after rotary embedding, attention_mask (B, L) bool.
    Writes the trace. Raises InputError for a replayed choice that does not fit.
    """
    settings, trace = current.settings, current.trace
    training, end = settings.training, settings.prompt_length
    prompt = attention_mask.clone()
    if end is not None:
        prompt[:, end:] = False
    short = query.shape[2] < settings.min_tokens
    if short and training.replay is None and training.relax is None:
        trace.lengths = prompt.sum(-1)
        record(trace.kept, layer, prompt[:, :end])
        return Selection(attention_mask, None, None)

    def attention() -> tuple[torch.Tensor, torch.Tensor]:
        if current.probes is None or current.probes.prompt.device != query.device:
            current.probes = find_probes(probe_ranks(prompt.sum(-1), query.shape[2]), prompt)
        return probe_scores(query, key, current.probes, scaling)

    earlier = tuple(trace.kept[:layer])
    scores = Scores(attention, prompt, layer, earlier, current.visual)
    # The scores get a graph only if the relaxed count reads them first, outside of no_grad.
    if training.relax is not None:
        record(trace.relaxed, layer, relaxed(scores, current))
    with torch.no_grad():
        chosen = settings.rule.keep(scores)
        if settings.min_tokens:
            chosen = torch.where((scores.lengths < settings.min_tokens)[:, None], prompt, chosen)
        if training.replay is not None:
            fresh, chosen = chosen, replayed(training.replay[layer], prompt, layer)
            record(trace.flipped, layer, (chosen & ~fresh).sum(-1) / chosen.sum(-1))
        trace.lengths = scores.lengths
        record(trace.kept, layer, chosen[:, :end])
        rows = None
        if settings.separate:
            rows = query_rows(settings, scores)
            record(trace.rows, layer, (rows & prompt)[:, :end])
            rows = rows | (attention_mask & ~prompt)
        return Selection(chosen | (attention_mask & ~prompt), rows, scores)


def query_rows(settings: Settings, scores: Scores) -> torch.Tensor:
    """(B, L) bool: the queries that are computed, where they are selected separately."""
    if settings.scope == "keys":
        return torch.ones_like(scores.valid)
    chosen = (
        settings.rule.keep_rows(scores) if settings.rows is None else settings.rows.keep(scores)
    )
    if settings.min_tokens:
        short = (scores.lengths < settings.min_tokens)[:, None]
        chosen = torch.where(short, scores.valid, chosen)
    return chosen


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
