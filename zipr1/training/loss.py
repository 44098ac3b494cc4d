"""The loss of ZipR1 on a batch of rollouts, and one optimiser step on it."""

from functools import partial

import torch
from accelerate import Accelerator

from zipr1.common.clock import Stopwatch
from zipr1.sparsity.attention import NAME, Trace
from zipr1.sparsity.budget import relaxed_count
from zipr1.sparsity.context import sparse
from zipr1.training.choice_gradient import MEMBERSHIP
from zipr1.training.config import TrainConfig
from zipr1.training.grpo import (
    Governor,
    clipped_surrogate,
    full_kl,
    gate,
    group_advantages,
    reference_advantages,
    sampled_kl,
    token_mean,
)
from zipr1.training.policy import accumulate, backward, take_step, unwrap
from zipr1.training.questions import kind, kinds_of
from zipr1.training.rollout import Experience, completion_logits, right
from zipr1.training.sharpness import entropy_count, soft_count

SHARPNESS = {"count": relaxed_count, "entropy": entropy_count, "soft_count": soft_count}


def losses(
    model, trace: Trace, part: Experience, governor: Governor, config: TrainConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(N,) the loss of each rollout, and its metrics, (N,) each. `governor`: of the sparsity weight. What belongs to a whole
    group, its advantages first of all, is computed over its G rollouts (B, G), also where `part` holds some of them."""
    objective, rollout, rewards = config.objective, part.rollout, part.rewards
    logp = completion_logits(model, rollout).log_softmax(-1)
    device = logp.device
    logprobs = logp.gather(2, rollout.tokens[..., None])[..., 0]
    correct = right(part.examples, rewards, config)
    gates = gate(correct, objective.gate)
    total = rewards.total(objective.efficiency_reward, gates)
    old = rollout.logprobs
    if config.completions == "given":
        advantages, old = (
            torch.ones_like(total),
            logprobs.detach(),
        )  # the surrogate's gradient is that of the cross-entropy
    elif objective.baseline == "group":
        advantages = group_advantages(total, objective.std_floor)
    else:
        advantages = reference_advantages(total, part.expected)
    advantages = advantages[:, part.columns].flatten().to(device)
    gain = clipped_surrogate(logprobs, old, advantages, rollout.mask, config.epsilon)
    reference = part.reference_logits.log_softmax(-1)
    if objective.kl == "sampled":
        kl = sampled_kl(
            logprobs, reference.gather(2, rollout.tokens[..., None])[..., 0], rollout.mask
        )
    else:
        kl = full_kl(
            *((logp, reference) if objective.kl == "full" else (reference, logp)), rollout.mask
        )
    loss = -objective.reward_weight * gain + objective.beta * kl
    sparse_rows = torch.tensor([p < 1 for p in rollout.p], device=device)
    pressed = sparse_rows & (rollout.token_ratio > config.target_ratio)
    if objective.sparsity_weight:
        held = [
            governor.factor(kind(example)) if objective.governed else 1.0
            for example in part.examples
        ]
        weight = objective.sparsity_weight * torch.tensor(held)[:, None] * gates[:, part.columns]
        weight = weight.flatten().to(device) * pressed
        if config.give_back:
            lost = (part.expected[:, None] * (1 - correct.float()))[:, part.columns].flatten().to(
                device
            ) * sparse_rows
            weight = weight - config.give_back * objective.sparsity_weight * lost
        loss = loss + weight * trace.relaxed_ratio
    with torch.no_grad():
        ratio = (logprobs - rollout.logprobs).exp()
        entropy = -(logp.exp() * logp).sum(-1)
        spread = total.std(-1, correction=0)[:, None].expand_as(total)
        won = rewards.accuracy if config.completions == "given" else correct.float()
        groups = {
            "reward": total,
            "reward_std": spread,
            "rewards/accuracy": rewards.accuracy,
            "rewards/efficiency": rewards.efficiency,
            "unparsable": rewards.unparsable.float(),
            "frac_reward_zero_std": (spread == 0).float(),
        }
        metrics = {"loss": loss.detach()} | {
            name: value[:, part.columns] for name, value in groups.items()
        }
        metrics |= {
            "token_ratio": rollout.token_ratio,
            "frac_above_target": pressed.float(),
            "kl": kl,
            "entropy": token_mean(entropy, rollout.mask),
            "clip_ratio/region_mean": token_mean(
                ((ratio - 1).abs() > config.epsilon).float(), rollout.mask
            ),
            "prompts/mean_length": rollout.embeds["attention_mask"].sum(-1).float(),
            "completions/mean_length": rollout.mask.sum(-1).float(),
            "completions/clipped_ratio": rollout.clipped.float(),
            "flip_rate": torch.stack(trace.flipped).float().mean(0),
        }
        if objective.sparsity_weight and config.give_back:
            metrics["given_back"] = lost
        if part.expected is not None:
            metrics["reference_accuracy"] = part.expected[:, None].expand_as(total)[:, part.columns]
            apart = (won - part.expected[:, None])[:, part.columns].to(device)
            thinned = sparse_rows.view(apart.shape).float()
            for name in kinds_of(config):  # of the sparse rollouts alone: what the governor goes by
                these = torch.tensor(
                    [kind(example) == name for example in part.examples], device=device
                )[:, None]
                metrics[f"gap/{name}"] = these * thinned * apart
                metrics[f"sparse/{name}"] = these * thinned
    return loss, {name: value.detach().flatten().to(device) for name, value in metrics.items()}


def update(
    policy,
    optimizer,
    accelerator: Accelerator,
    parts: list[Experience],
    governor: Governor,
    config: TrainConfig,
    watch: Stopwatch,
) -> dict[str, float]:
    """One optimiser step on the mean loss over the rollouts of all processes; returns its metrics, means over them.

    A step whose loss or gradient is not finite is not taken ("skipped" is 1); all processes see the same sums, so all agree.
    """
    sums: dict[str, torch.Tensor] = {}
    device = accelerator.device
    relax, implementation = None, NAME
    if config.objective.sparsity_weight:
        implementation = MEMBERSHIP if config.objective.choice_gradient else NAME
        relax = SHARPNESS[config.sharpness]
        relax = partial(relax, floor=config.relax_floor) if config.sharpness == "count" else relax
    rows = torch.tensor(sum(part.weight * len(part.rollout.p) for part in parts), device=device)
    rows = accelerator.reduce(rows, "sum").item()
    for number, part in enumerate(parts, 1):
        choice = {
            "prompt_length": part.rollout.prompt,
            "replay": part.rollout.kept,
            "relax": relax,
            "numbers": part.rollout_numbers,
            "implementation": implementation,
        }
        with (
            watch("loss"),
            accumulate(policy, more=number < len(parts)),
            sparse(
                unwrap(policy), config.rule(part.rollout.p), scope=config.scope, **choice
            ) as trace,
        ):
            loss, metrics = policy(losses, trace, part, governor, config)
            # Gradients are averaged over the processes: times their number, over the rollouts of all.
            backward(
                policy, accelerator, loss.sum() * part.weight * accelerator.num_processes / rows
            )
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0) + part.weight * value.sum()
    means = accelerator.reduce(torch.stack(list(sums.values())), "sum") / rows
    with watch("update"):
        norm, taken = take_step(policy, optimizer, means[0], config.max_grad_norm)
    return dict(zip(sums, means.tolist(), strict=True)) | {
        "grad_norm": norm.item(),
        "skipped": float(not taken),
    }
