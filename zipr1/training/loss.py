"""The loss of ZipR1 on a batch of rollouts, and its metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zipr1.evaluation.usable_rows import task_group
from zipr1.sparsity.trace import Trace
from zipr1.training.experience import Experience
from zipr1.training.grpo import (
    Governor,
    clipped_surrogate,
    full_kl,
    gate,
    group_advantages,
    reference_advantages,
    sampled_kl,
    token_average,
    token_mean,
)
from zipr1.training.objective import Objective
from zipr1.training.rollout import completion_states
from zipr1.training.token_logits import TokenStates


@dataclass
class Terms:
    """What the loss of each rollout is made of, (N,) each unless noted."""

    loss: torch.Tensor
    kl: torch.Tensor
    reward: torch.Tensor  # (B, G), of whole groups
    above_target: torch.Tensor  # bool: sparse, and above the target ratio
    regressed: torch.Tensor | None  # how far an incorrect answer is behind the reference
    logprobs: torch.Tensor  # (N, T), of the tokens
    entropy: torch.Tensor  # (N, T), of the policy's distributions


def losses(
    model, trace: Trace, part: Experience, governor: Governor, objective: Objective
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(N,) the loss of each rollout, and its metrics, (N,) each.

    Advantages, gates and what else belongs to a whole group are computed over its G rollouts, also
    where `part` holds some of them.
    """
    terms = loss_terms(model, trace, part, governor, objective)
    return terms.loss, metrics_of(terms, trace, part, objective)


def loss_terms(
    model, trace: Trace, part: Experience, governor: Governor, objective: Objective
) -> Terms:
    """-reward_weight * surrogate + beta * KL + sparsity weight * relaxed token ratio, per row."""
    rollout = part.rollout
    policy = completion_states(model, rollout)
    logprobs, entropy, divergence = token_terms(policy, part.reference, rollout.tokens, objective)
    gates = gate(part.score, objective.gate)
    reward = part.rewards.total(objective.efficiency_reward, gates)
    average = token_average(objective.loss_type, objective.max_completion_length)
    # Given completions: the gradient of the surrogate at a ratio of 1 is that of the cross-entropy.
    old = logprobs.detach() if part.supervised else rollout.logprobs
    gain = clipped_surrogate(
        logprobs,
        old,
        part.rows(advantages(part, reward, objective)),
        rollout.mask,
        objective.epsilon,
        objective.importance_sampling_level,
        average,
    )
    if objective.kl == "sampled":
        kl = sampled_kl(logprobs, part.reference_logprobs, rollout.mask, average)
    else:
        kl = average(divergence, rollout.mask)
    loss = -objective.reward_weight * gain + objective.beta * kl
    sparse = sparse_rows(part)
    above_target = sparse & (rollout.token_ratio > objective.target_ratio)
    regressed = None
    if objective.sparsity_weight:
        weight = sparsity_weights(part, gates, governor, objective) * above_target
        if objective.give_back:
            regressed = part.rows(part.expected[:, None] * (1 - part.score)) * sparse
            weight = weight - objective.give_back * objective.sparsity_weight * regressed
        loss = loss + weight * trace.relaxed_ratio
    return Terms(loss, kl, reward, above_target, regressed, logprobs, entropy)


def token_terms(
    policy: TokenStates, reference: TokenStates | None, tokens: torch.Tensor, objective: Objective
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, T) each: log-probabilities of `tokens` (N, T), entropies, and KL divergences between
    policy and reference over the vocabulary (0 where the objective has that of sampled tokens)."""

    def terms(columns: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logp = policy.logits(columns).log_softmax(-1)
        logprobs = logp.gather(2, tokens[:, columns, None])[..., 0]
        entropy = -(logp.detach().exp() * logp.detach()).sum(-1)
        if objective.kl == "sampled":
            return logprobs, entropy, torch.zeros_like(logprobs)
        with torch.no_grad():
            logq = reference.logits(columns).log_softmax(-1)
        pair = logp, logq
        return logprobs, entropy, full_kl(*(pair if objective.kl == "full" else pair[::-1]))

    return policy.in_pieces(terms)


def advantages(part: Experience, reward: torch.Tensor, objective: Objective) -> torch.Tensor:
    """(B, G); 1 for given completions, which are all to be imitated."""
    if part.supervised:
        return torch.ones_like(reward)
    if objective.baseline == "group":
        return group_advantages(reward, objective.std_floor)
    return reference_advantages(reward, part.expected)


def sparsity_weights(
    part: Experience, gates: torch.Tensor, governor: Governor, objective: Objective
) -> torch.Tensor:
    """(N,) the weight of the sparsity term of each rollout: the objective's, scaled by the governor
    of its task group, where its gate is open."""
    factors = torch.tensor([governor.factor(task_group(example)) for example in part.examples])
    if not objective.governed:
        factors = torch.ones_like(factors)
    return part.rows(objective.sparsity_weight * factors[:, None] * gates)


def sparse_rows(part: Experience) -> torch.Tensor:
    """(N,) True where a rollout is sparse, p < 1."""
    p = part.rollout.p
    return torch.tensor([one < 1 for one in p], device=part.rollout.tokens.device)


@torch.no_grad()
def metrics_of(
    terms: Terms, trace: Trace, part: Experience, objective: Objective
) -> dict[str, torch.Tensor]:
    """(N,) per metric; docs/reference/metrics.md says what they mean."""
    rollout, rewards = part.rollout, part.rewards
    ratio = (terms.logprobs - rollout.logprobs).exp()
    spread = terms.reward.std(-1, correction=0)[:, None]
    metrics = {
        "loss": terms.loss,
        "reward": part.rows(terms.reward),
        "reward_std": part.rows(spread),
        "rewards/accuracy": part.rows(rewards.accuracy),
        "rewards/efficiency": part.rows(rewards.efficiency),
        "unparsable": part.rows(rewards.unparsable.float()),
        "frac_reward_zero_std": part.rows((spread == 0).float()),
        "token_ratio": rollout.token_ratio,
        "frac_above_target": terms.above_target.float(),
        "kl": terms.kl,
        "entropy": token_mean(terms.entropy, rollout.mask),
        "clip_ratio/region_mean": clipped_fraction(ratio, rollout.mask, objective),
        "prompts/mean_length": rollout.embeds["attention_mask"].sum(-1).float(),
        "completions/mean_length": rollout.mask.sum(-1).float(),
        "completions/clipped_ratio": rollout.clipped.float(),
        "flip_rate": torch.stack(trace.flipped).float().mean(0),
    }
    if terms.regressed is not None:
        metrics["given_back"] = terms.regressed
    if part.expected is not None:
        metrics["reference_accuracy"] = part.rows(part.expected[:, None])
    return {name: value.detach() for name, value in metrics.items()}


def clipped_fraction(ratio: torch.Tensor, mask: torch.Tensor, objective: Objective) -> torch.Tensor:
    """(N,) the fraction of importance ratios outside the clip range: of the row's tokens (N, T), or
    1 or 0 for its whole answer."""
    if objective.importance_sampling_level == "sequence":
        ratio = ratio.where(mask, 1.0).prod(-1)
        return ((ratio - 1).abs() > objective.epsilon).float()
    return token_mean(((ratio - 1).abs() > objective.epsilon).float(), mask)


@torch.no_grad()
def accuracy_gaps(part: Experience, groups: Sequence[str]) -> dict[str, torch.Tensor]:
    """What the governor goes by, of the sparse rollouts alone: for each task group (N,) how far a
    rollout's score is above the reference's ("gap/GROUP"), and which rollouts count
    ("sparse/GROUP"). Every process has the same names, whatever its questions."""
    if part.expected is None:
        return {}
    difference = part.rows(part.score - part.expected[:, None])
    sparse, metrics = sparse_rows(part).float(), {}
    for group in groups:
        inside = torch.tensor([[task_group(example) == group] for example in part.examples])
        inside = part.rows(inside).float()
        metrics[f"gap/{group}"] = inside * sparse * difference
        metrics[f"sparse/{group}"] = inside * sparse
    return metrics
