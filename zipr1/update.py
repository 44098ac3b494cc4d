"""The loss of ZipR1 on a batch of rollouts, and one optimiser step on it."""

import torch
from accelerate import Accelerator

from zipr1.attention import Trace
from zipr1.clock import Stopwatch
from zipr1.config import TrainConfig
from zipr1.experience import Experience
from zipr1.grpo import clipped_surrogate, full_kl, gate, group_advantages, reference_advantages, sampled_kl, token_mean
from zipr1.model import sparse
from zipr1.policy import accumulate, clip_gradients, unwrap
from zipr1.rollout import completion_logits
from zipr1.selection import TopP


def losses(
    model, trace: Trace, part: Experience, factor: float, config: TrainConfig
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(N,) the loss of each rollout, and its metrics, (N,) each. `factor` is the governor's, of the sparsity weight."""
    objective, rollout, rewards = config.objective, part.rollout, part.rewards
    logits = completion_logits(model, rollout)
    device = logits.device
    logp = logits.log_softmax(-1)
    logprobs = logp.gather(2, rollout.tokens[..., None])[..., 0]
    gates = gate(rewards.accuracy > 0, objective.gate)
    total = rewards.total(objective.efficiency_reward, gates)
    if objective.baseline == "group":
        advantages = group_advantages(total, objective.std_floor)
    else:
        advantages = reference_advantages(total, part.expected)
    gain = clipped_surrogate(logprobs, rollout.logprobs, advantages.flatten().to(device), rollout.mask, config.epsilon)
    if objective.kl == "sampled":
        chosen = part.reference_logits.log_softmax(-1).gather(2, rollout.tokens[..., None])[..., 0]
        kl = sampled_kl(logprobs, chosen, rollout.mask)
    else:
        # Suppressed tokens have no probability in either; a finite logit keeps 0 * (-inf + inf) out of the sum.
        nowhere = torch.tensor(rollout.suppress, dtype=torch.long, device=device)
        pair = [one.index_fill(2, nowhere, -1e4) for one in (logits, part.reference_logits)]
        kl = full_kl(*(pair if objective.kl == "full" else reversed(pair)), rollout.mask)
    loss = -objective.reward_weight * gain + objective.beta * kl
    sparse_rows = torch.tensor([p < 1 for p in rollout.p], device=device)
    if objective.sparsity_weight:
        weight = objective.sparsity_weight * (factor if objective.governed else 1.0)
        loss = loss + weight * gates.flatten().to(device) * sparse_rows * trace.relaxed_ratio
    with torch.no_grad():
        ratio = (logprobs - rollout.logprobs).exp()
        entropy = -(logp.exp() * logp.masked_fill(logp == float("-inf"), 0)).sum(-1)
        spread = total.std(-1, correction=0)[:, None].expand_as(total)
        metrics = {
            "loss": loss.detach(),
            "reward": total,
            "reward_std": spread,
            "rewards/accuracy": rewards.accuracy,
            "rewards/efficiency": rewards.efficiency,
            "unparsable": rewards.unparsable.float(),
            "frac_reward_zero_std": (spread == 0).float(),
            "reference_accuracy": part.expected[:, None].expand_as(total),
            # Of the sparse rollouts alone: what the governor goes by.
            "governor/gap": sparse_rows.view(total.shape) * (rewards.accuracy - part.expected[:, None]).to(device),
            "governor/share": sparse_rows.float(),
            "token_ratio": rollout.token_ratio,
            "kl": kl,
            "entropy": token_mean(entropy, rollout.mask),
            "clip_ratio": token_mean(((ratio - 1).abs() > config.epsilon).float(), rollout.mask),
            "prompts/mean_length": rollout.embeds["attention_mask"].sum(-1).float(),
            "completions/mean_length": rollout.mask.sum(-1).float(),
            "flip_rate": torch.stack(trace.flipped).float().mean(0),
        }
    return loss, {name: value.detach().flatten().to(device) for name, value in metrics.items()}


def update(
    policy,
    optimizer,
    accelerator: Accelerator,
    parts: list[Experience],
    factor: float,
    config: TrainConfig,
    watch: Stopwatch,
) -> dict[str, float]:
    """One optimiser step on the mean loss over the rollouts of all processes; returns its metrics, means over them.

    A step whose loss or gradient is not finite is not taken ("skipped" is 1); all processes see the same sums, so all agree.
    """
    sums: dict[str, torch.Tensor] = {}
    device = accelerator.device
    relax = config.relax_floor if config.objective.sparsity_weight else None
    rows = torch.tensor(sum(part.weight * len(part.rollout.p) for part in parts), device=device)
    rows = accelerator.reduce(rows, "sum").item()
    for number, part in enumerate(parts, 1):
        choice = {"prompt_length": part.rollout.prompt, "replay": part.rollout.kept, "relax_floor": relax}
        with (
            watch("loss"),
            accumulate(policy, more=number < len(parts)),
            sparse(unwrap(policy), TopP(part.rollout.p), scope=config.scope, **choice) as trace,
        ):
            loss, metrics = policy(losses, trace, part, factor, config)
            # Gradients are averaged over the processes: times their number, over the rollouts of all.
            accelerator.backward(loss.sum() * part.weight * accelerator.num_processes / rows)
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0) + part.weight * value.sum()
    means = accelerator.reduce(torch.stack(list(sums.values())), "sum") / rows
    with watch("update"):
        norm = clip_gradients(policy, config.max_grad_norm)
        finite = bool(torch.isfinite(means[0]) and torch.isfinite(norm))
        if finite:
            optimizer.step()
        optimizer.zero_grad()
    return dict(zip(sums, means.tolist(), strict=True)) | {"grad_norm": norm.item(), "skipped": float(not finite)}
