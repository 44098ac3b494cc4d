"""ZipR1: rollout -> reward -> advantage -> update, on one screen.

Policy: the model under Top-p sparse attention; reference: the same model, frozen, dense. Every random number is a function
of (seed, step, question), so that a run that was killed ends with the same weights as one that was not.
"""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from zipr1 import checkpoint
from zipr1.config import Objective, TrainConfig
from zipr1.evaluate import evaluate, examples_of
from zipr1.grpo import (
    Governor,
    clipped_surrogate,
    full_kl,
    gate,
    group_advantages,
    reference_advantages,
    sampled_kl,
)
from zipr1.inputs import prepare
from zipr1.model import encode, load_vision, save, sparse
from zipr1.provenance import provenance
from zipr1.rewards import Reward, reward
from zipr1.rollout import (
    Rollout,
    completion_logits,
    draw_thresholds,
    reference_logits,
    sample,
    token_draws,
)
from zipr1.selection import TopP
from zipr1.tasks import TASKS
from zipr1.tasks.base import Example


def train(config: TrainConfig, quiet: bool = False, line: int = 0) -> Path:
    """Post-trains and returns the folder of the final model: a plain transformers folder with zipr1.json. `line` of the
    terminal is where the progress bar goes, if several processes draw one."""
    torch.set_num_threads(config.threads)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(log_with="tensorboard", project_dir=folder)
    found = checkpoint.last(folder, config) if config.resume else None
    if not config.resume and checkpoint.checkpoints(folder):
        raise ValueError(f"{folder}: holds checkpoints of an earlier run; give --resume, or another output_dir")
    model, processor = load_vision(found[0] if found else config.model, dtype=torch.float32)
    reference, _ = load_vision(config.model, dtype=torch.float32)
    reference.to(accelerator.device)
    if model.config.model_type == "qwen3_vl":
        raise ValueError(f"{config.model}: post-training of Qwen3-VL is not there yet; use Qwen2-VL or Qwen2.5-VL")
    model.requires_grad_(True)
    model.model.visual.requires_grad_(False)  # a picture is encoded once; what becomes sparse is the decoder's attention
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.init_trackers("tensorboard")
    (folder / "run.json").write_text(json.dumps({"config": asdict(config)} | provenance(), indent=1))

    probe = examples_of(config.tasks, "val", config.probe_per_task)
    start, governor = 0, None
    if found:
        state = found[1]
        start, governor = state["step"], Governor(**state["governor"])
        optimizer.load_state_dict(state["optimizer"])
    metrics = folder / "metrics.jsonl"
    rewind(metrics, start)
    if governor is None:
        governor = Governor(config.accuracy_tolerance, config.accuracy_margin)
        note(metrics, accelerator, 0, measure(model, processor, probe, config))

    bar = tqdm(range(start, config.max_steps), desc=config.preset, unit="step", disable=quiet, initial=start, position=line)
    for step in bar:
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config)
        thresholds = draw_thresholds(config.thresholds, *place(step, config, config.num_generations))
        model.eval()
        examples = questions(step, config)
        rollout, rewards = roll(model, processor, examples, step, thresholds, config)
        reference_out = reference_logits(reference, rollout, config.num_generations)
        expected = expected_accuracy(reference, processor, examples, rollout)
        model.train()
        for _ in range(config.num_iterations):
            record = update(model, optimizer, accelerator, rollout, rewards, reference_out, expected, governor.factor, config)
        governor.update((rewards.accuracy.mean() - expected.mean()).item())
        record |= {
            "reference_accuracy": expected.mean().item(),
            "governor/gap": governor.gap,
            "governor/factor": governor.factor,
        }
        record |= {"learning_rate": optimizer.param_groups[0]["lr"], "seconds": time.perf_counter() - began}
        if (step + 1) % config.probe_every == 0 or step + 1 == config.max_steps:
            record |= measure(model, processor, probe, config)
        note(metrics, accelerator, step + 1, record)
        bar.set_postfix(reward=f"{record['reward']:.2f}", ratio=f"{record['token_ratio']:.2f}")
        if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
            state = {"optimizer": optimizer.state_dict(), "governor": asdict(governor)}
            checkpoint.write(folder, step + 1, accelerator.unwrap_model(model), processor, state, config)
    accelerator.end_training()
    final = folder / "final"
    save(accelerator.unwrap_model(model), processor, final, checkpoint.settings(config, config.max_steps))
    return final


def place(step: int, config: TrainConfig, group: int) -> tuple[int, int, int, int, int]:
    """What the random numbers of a step are a function of: (seed, step, first question, questions, group)."""
    return config.seed, step, step * config.prompts_per_step, config.prompts_per_step, group


def roll(
    model, processor, examples: list[Example], step: int, p: tuple[float, ...], config: TrainConfig
) -> tuple[Rollout, Reward]:
    """The rollouts of a step's questions under the thresholds p, and their rewards."""
    with torch.no_grad():
        encoded = encode(model, prepare(processor, examples).to(model.device))  # once per question
    draws = token_draws(*place(step, config, len(p) // len(examples)), config.max_completion_length).to(model.device)
    rollout = sample(
        model, encoded, p, max_new_tokens=config.max_completion_length, temperature=config.temperature, draws=draws,
        scope=config.scope,
    )  # fmt: skip
    tokens = rollout.tokens.masked_fill(~rollout.mask, processor.tokenizer.pad_token_id)
    completions = processor.batch_decode(tokens, skip_special_tokens=True)
    return rollout, reward(examples, completions, rollout.token_ratio)


@torch.no_grad()
def expected_accuracy(reference, processor, examples: list[Example], rollout: Rollout) -> torch.Tensor:
    """(B,) the probability that the dense reference samples the expected answer, word for word: what it is right at least
    this often, without the noise of sampling it."""
    group = rollout.tokens.shape[0] // len(examples)
    end = processor.tokenizer.eos_token_id
    answers = [[*processor.tokenizer.encode(example.answer, add_special_tokens=False), end] for example in examples]
    longest = max(map(len, answers))
    device = rollout.tokens.device
    tokens = torch.tensor([answer + [end] * (longest - len(answer)) for answer in answers], device=device)
    mask = torch.tensor([[i < len(answer) for i in range(longest)] for answer in answers], device=device)
    embeds = {n: t[:, ::group] if n == "position_ids" else t[::group] for n, t in rollout.embeds.items()}
    logits = completion_logits(reference, replace(rollout, embeds=embeds, tokens=tokens, mask=mask))
    logp = logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    return (logp * mask).sum(-1).exp()


def update(
    model,
    optimizer,
    accelerator,
    rollout: Rollout,
    rewards: Reward,
    reference_out,
    expected: torch.Tensor,
    factor: float,
    config: TrainConfig,
) -> dict[str, float]:
    """One optimiser step on a batch of rollouts; returns its metrics."""
    objective: Objective = config.objective
    relax = config.relax_floor if objective.sparsity_weight else None
    prompt = rollout.embeds["attention_mask"].shape[1]
    choice = {"prompt_length": prompt, "replay": rollout.kept, "relax_floor": relax}
    with sparse(model, TopP(rollout.p), scope=config.scope, **choice) as trace:
        logits = completion_logits(model, rollout)
        logp = logits.log_softmax(-1)
        logprobs = logp.gather(2, rollout.tokens[..., None])[..., 0]
        gates = gate(rewards.accuracy > 0, objective.gate)
        total = rewards.total(objective.efficiency_reward, gates)
        if objective.baseline == "group":
            advantages = group_advantages(total, objective.std_floor)
        else:
            advantages = reference_advantages(total, expected.to(total.device))
        gain = clipped_surrogate(
            logprobs, rollout.logprobs, advantages.flatten().to(logits.device), rollout.mask, config.epsilon
        )
        if objective.kl == "sampled":
            chosen = reference_out.log_softmax(-1).gather(2, rollout.tokens[..., None])[..., 0]
            kl = sampled_kl(logprobs, chosen, rollout.mask)
        else:
            # Suppressed tokens have no probability in either; a finite logit keeps 0 * (-inf + inf) out of the sum.
            pair = [part.masked_fill(part == float("-inf"), -1e4) for part in (logits, reference_out)]
            kl = full_kl(*(pair if objective.kl == "full" else reversed(pair)), rollout.mask)
        loss = -objective.reward_weight * gain.mean() + objective.beta * kl.mean()
        if relax is not None:
            weight = objective.sparsity_weight * (factor if objective.governed else 1.0)
            loss = loss + weight * (gates.flatten().to(logits.device) * trace.relaxed_ratio).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()}: lower learning_rate or raise relax_floor")
        accelerator.backward(loss)
        flips = torch.stack(trace.flipped).float().mean().item()
    norm = accelerator.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], config.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
    length = rollout.mask.sum(-1).float()
    ratio = (logprobs.detach() - rollout.logprobs).exp()
    outside = ((ratio - 1).abs() > config.epsilon) & rollout.mask
    entropy = -(logp.detach().exp() * logp.detach().masked_fill(logp == float("-inf"), 0)).sum(-1)
    return {
        "loss": loss.item(),
        "reward": total.mean().item(),
        "reward_std": total.std(-1, correction=0).mean().item(),
        "rewards/accuracy": rewards.accuracy.mean().item(),
        "rewards/efficiency": rewards.efficiency.mean().item(),
        "frac_reward_zero_std": (total.std(-1, correction=0) == 0).float().mean().item(),
        "token_ratio": rollout.token_ratio.mean().item(),
        "kl": kl.mean().item(),
        "entropy": (entropy * rollout.mask).sum().item() / rollout.mask.sum().item(),
        "clip_ratio": outside.float().sum().item() / rollout.mask.sum().item(),
        "completions/mean_length": length.mean().item(),
        "flip_rate": flips,
        "grad_norm": float(norm),
    }


def questions(step: int, config: TrainConfig) -> list[Example]:
    """The training questions of a step, a function of (seed, step).

    A step is all pictures or all clips, each as often as its share of the tasks: a clip's prompt is twice as long, and
    padding the pictures to it would cost half the time. Tasks take turns within their kind.
    """
    kinds = [TASKS[name].clip for name in config.tasks]
    clip = sorted(kinds)[step % len(kinds)]
    names = [name for name, kind in zip(config.tasks, kinds, strict=True) if kind == clip]
    numbers = range(step * config.prompts_per_step, (step + 1) * config.prompts_per_step)
    # Pretraining has seen the first scenes of the train split; these are others.
    first = 5_000_000 + config.seed * 1_000_000
    return [TASKS[names[i % len(names)]].example("train", first + i) for i in numbers]


def schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, constant, linear decay to zero."""
    up = (step + 1) / max(config.warmup_steps, 1)
    down = (config.max_steps - step) / max(config.decay_share * config.max_steps, 1)
    return min(1.0, up, down)


def measure(model, processor, probe: list[Example], config: TrainConfig) -> dict[str, float]:
    """The curves that matter: accuracy and token ratio at the fixed p, and dense accuracy, on the frozen probe set."""
    sparse_rows = evaluate(model, processor, probe, TopP(config.p), "probe", quiet=True, scope=config.scope)
    dense_rows = evaluate(model, processor, probe, None, "probe", quiet=True)
    count = len(probe)
    return {
        "probe/accuracy": sum(row.right for row in sparse_rows) / count,
        "probe/token_ratio": sum(row.token_ratio for row in sparse_rows) / count,
        "probe/full_accuracy": sum(row.right for row in dense_rows) / count,
    }


def note(path: Path, accelerator, step: int, record: dict[str, float]) -> None:
    """Appends a row to metrics.jsonl and to the trackers."""
    with path.open("a") as file:
        file.write(json.dumps({"step": step} | record) + "\n")
    accelerator.log(record, step=step)


def rewind(path: Path, step: int) -> None:
    """Drops the rows after `step`: those of a run that was killed between two checkpoints."""
    rows = path.read_text().splitlines() if path.exists() else []
    kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= step] if step else []
    path.write_text("".join(row + "\n" for row in kept))
