"""Rollouts of a policy: sampled under sparse attention, or the data's completions scored by it."""

from dataclasses import replace

import torch
import torch.distributed as dist

from zipr1.models.encode import Encoded, following
from zipr1.models.families import decoder
from zipr1.models.versions import CACHE, cache_of
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP
from zipr1.training.rollout import Rollout, completion_states, repeat
from zipr1.training.token_logits import policy_logits


def visual_placeholders(model) -> list[int]:
    """Tokens that an answer must not contain: a later pass would look for their pixels."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return [token for name in names if (token := getattr(model.config, name, None)) is not None]


@torch.no_grad()
def sample(
    model,
    encoded: Encoded,
    rule: TopP,
    *,
    max_new_tokens: int,
    temperature: float,
    draws: torch.Tensor,
    scope: str = "attention",
    synced: bool = False,
) -> Rollout:
    """Samples answers under Top-p sparse attention: len(rule.p) / B per question, each under its
    own p.

    draws: (N, max_new_tokens) in [0, 1), the randomness, by inversion of the cumulative
        distribution, so that a row depends on its own numbers and not on its neighbours.
    synced: every process continues until the last has finished, as sharded weights need.
    """
    embeds, prompt_ids = repeat(encoded, len(rule.p) // len(encoded.prompt_ids))
    suppress = visual_placeholders(model)
    with sparse(model, rule, scope=scope) as trace:
        prefill = decoder(model)(**embeds, use_cache=True)
        kept, token_ratio = list(trace.kept), trace.token_ratio
        completions = decode(
            model,
            prefill,
            embeds,
            suppress,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            draws=draws,
            synced=synced,
        )
    return Rollout(
        embeds,
        prompt_ids,
        rule.p,
        **completions,
        kept=kept,
        token_ratio=token_ratio,
        temperature=temperature,
        suppress=suppress,
        synced=synced,
    )


def decode(
    model,
    prefill,
    embeds: dict,
    suppress: list[int],
    *,
    max_new_tokens: int,
    temperature: float,
    draws: torch.Tensor,
    synced: bool,
) -> dict[str, torch.Tensor]:
    """Samples from the decoder's output `prefill`, under the attention in force: tokens, mask,
    clipped and logprobs of a Rollout. The KV cache of `prefill` grows by the sampled tokens."""
    ends = model.generation_config.eos_token_id
    ends = torch.tensor([ends] if isinstance(ends, int) else ends or [], device=draws.device)
    mask, positions = embeds["attention_mask"], following(embeds, max_new_tokens)
    tokens, logprobs, masks = [], [], []
    running = torch.ones(len(draws), dtype=torch.bool, device=draws.device)
    for step in range(max_new_tokens):
        logits = model.lm_head(prefill.last_hidden_state[:, -1])
        logp = policy_logits(logits, suppress, temperature).log_softmax(-1)
        token = invert(logp, draws[:, step : step + 1])
        tokens.append(token)
        logprobs.append(logp.gather(1, token[:, None])[:, 0])
        masks.append(running)
        running = running & ~torch.isin(token, ends)
        more = running.any().int()
        if synced:
            dist.all_reduce(more, dist.ReduceOp.MAX)
        if step + 1 == max_new_tokens or not more:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        prefill = decoder(model)(
            inputs_embeds=model.get_input_embeddings()(token)[:, None],
            attention_mask=mask,
            position_ids=positions[..., step : step + 1],
            use_cache=True,
            **{CACHE: cache_of(prefill)},
        )
    parts = {"tokens": tokens, "mask": masks, "logprobs": logprobs}
    return {name: torch.stack(part, 1) for name, part in parts.items()} | {"clipped": running}


def invert(logp: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, V) and draws (N, 1) in [0, 1) -> (N,) tokens: the inverse of the
    cumulative distribution. A row of NaN gives the last token; its loss is NaN as well."""
    curve = logp.double().exp().cumsum(-1)
    token = torch.searchsorted(curve, draws.double() * curve[:, -1:], right=True)[:, 0]
    return token.clamp(max=curve.shape[1] - 1)


@torch.no_grad()
def score_given(
    model,
    encoded: Encoded,
    rule: TopP,
    *,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    scope: str = "attention",
    synced: bool = False,
) -> Rollout:
    """Rollouts of the data's completions, tokens and mask (B, T): len(rule.p) / B times each."""
    group = len(rule.p) // len(tokens)
    tokens, mask = tokens.repeat_interleave(group, 0), mask.repeat_interleave(group, 0)
    embeds, prompt_ids = repeat(encoded, group)
    zeros = torch.zeros(tokens.shape, device=tokens.device)
    rollout = Rollout(
        embeds,
        prompt_ids,
        rule.p,
        tokens,
        mask,
        clipped=torch.zeros_like(mask[:, 0]),
        logprobs=zeros,
        kept=[],
        token_ratio=zeros[:, 0],
        temperature=1.0,
        suppress=[],
        synced=synced,
    )
    with sparse(model, rule, scope=scope, prompt_length=rollout.prompt_length) as trace:
        logprobs = completion_states(model, rollout).logprobs(tokens)
    return replace(rollout, logprobs=logprobs, kept=list(trace.kept), token_ratio=trace.token_ratio)
