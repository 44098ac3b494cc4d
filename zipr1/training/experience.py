"""One step's rollouts with their rewards and the reference's scores, in micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator

from zipr1.common.clock import Stopwatch
from zipr1.data.collate import alike, collate
from zipr1.data.example import Example
from zipr1.rewards.reward import Reward
from zipr1.training.learner import Learner
from zipr1.training.modes import Mode
from zipr1.training.questions import Batch
from zipr1.training.rollout import Rollout
from zipr1.training.token_logits import TokenStates


@dataclass
class Experience:
    """B questions that share padding, with G rollouts each (N = B * G rows), or with some of the G
    (`columns`).

    What belongs to a whole group has the shape (B, G); `rows` picks what belongs to this part.
    """

    examples: list[Example]
    rollout: Rollout
    rewards: Reward  # (B, G), of all G
    score: torch.Tensor  # (B, G) 1 for a correct answer, else 0; given completions: log-probability
    expected: torch.Tensor | None  # (B,) the reference's score, where the objective asks for it
    reference_logprobs: torch.Tensor  # (N, T)
    reference: TokenStates | None  # of the N rows; None where the KL is that of sampled tokens
    numbers: list[int]  # of the questions in the run
    supervised: bool = False  # given completions: their cross-entropy is the loss, not a reward's
    weight: float = 1.0  # 0 for a repeated part, which keeps this process in step with others
    columns: slice = field(default_factory=lambda: slice(None))  # which of the G rollouts these are

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """Values (B, G) of all rollouts, or (B, 1) of questions -> (N,) of the rollouts in this
        part, on their device."""
        values = values.expand(self.rewards.accuracy.shape)
        return values[:, self.columns].flatten().to(self.rollout.tokens.device)

    @property
    def rollout_numbers(self) -> list[int]:
        """(N,) numbers of the rollouts in the run."""
        group = self.rewards.accuracy.shape[1]
        columns = range(group)[self.columns]
        return [number * group + column for number in self.numbers for column in columns]

    def record(self) -> dict:
        """Questions, samples and rewards for a file; the seed gives the rest again."""
        rollout, rewards = self.rollout, self.rewards
        names = ("p", "tokens", "mask", "logprobs", "kept", "token_ratio")
        return {name: getattr(rollout, name) for name in names} | {
            "accuracy": rewards.accuracy,
            "efficiency": rewards.efficiency,
            "expected": self.expected,
            "ids": [example.id for example in self.examples],
            "columns": [self.columns.start, self.columns.stop],
        }


def gather_experience(
    learner: Learner,
    mode: Mode,
    batch: Batch,
    step: int,
    *,
    watch: Stopwatch,
    max_tokens: int | None = None,
    keep_states: bool = True,
) -> list[Experience]:
    """Rollouts, rewards and reference scores of the questions in `batch`, in micro-batches.

    max_tokens: the largest number of tokens in a pass with gradients (`micro_batches`, `split`).
    keep_states: what gives the reference's distribution again, as a KL over the vocabulary needs.
    """
    config, accelerator, synced = mode.config, learner.accelerator, learner.collective
    lengths = [
        config.num_generations * (part["input_ids"].shape[1] + config.max_completion_length)
        for part in batch.inputs
    ]
    groups, parts = micro_batches(lengths, max_tokens), []
    groups = [part for group in groups for part in media_alike(learner.processor, batch, group)]
    # Where each pass is one of all processes, a process with fewer repeats its last group.
    missing = largest(len(groups), accelerator) - len(groups) if synced else 0
    for group in groups + groups[-1:] * missing:
        inputs = collate(learner.processor, [batch.inputs[i] for i in group])
        examples, numbers = [batch.examples[i] for i in group], [batch.numbers[i] for i in group]
        with watch("rollout"), learner.gathered():
            rollout = learner(mode.rollout, inputs, examples, numbers, step, synced)
        with watch("reward"):
            rewards = mode.rewards(examples, rollout, step)
        with watch("reference"):
            scores, expected = mode.score_with_reference(
                learner.reference, examples, rollout, numbers, step, synced
            )
        head, hidden = learner.reference_head, scores.hidden
        if learner.copy is not None:  # FSDP2 and DeepSpeed may compute in another dtype
            hidden = hidden.to(head.weight.dtype)
        states = TokenStates(hidden, head, rollout.suppress, rollout.temperature, synced)
        parts.append(
            Experience(
                examples,
                rollout,
                rewards,
                score=mode.score(examples, rewards),
                expected=None if expected is None else expected.cpu(),
                reference_logprobs=scores.logprobs,
                reference=states if keep_states else None,
                numbers=numbers,
                supervised=mode.supervised,
            )
        )
    parts = [piece for part in parts[: len(groups)] for piece in split(part, max_tokens)]
    # DDP too waits for the others within a pass: after the first gradients it rebuilds its buckets.
    return parts + [replace(parts[-1], weight=0.0)] * (
        largest(len(parts), accelerator) - len(parts)
    )


def media_alike(processor, batch: Batch, group: list[int]) -> list[list[int]]:
    """The questions of a micro-batch, in parts that the model takes in one pass."""
    parts = alike(processor, [batch.inputs[i] for i in group])
    return [[group[place] for place in part] for part in parts]


def micro_batches(lengths: Sequence[int], budget: int | None) -> list[list[int]]:
    """Indices into `lengths`, grouped by length: no group holds more than `budget` tokens with its
    padding, unless a single row does, and no row is padded to more than twice its length. Without a
    budget, all in one group."""
    if budget is None:
        return [list(range(len(lengths)))]
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if (
            not groups
            or (len(groups[-1]) + 1) * lengths[index] > budget
            or lengths[index] > 2 * lengths[groups[-1][0]]
        ):
            groups.append([])
        groups[-1].append(index)
    return groups


def split(part: Experience, budget: int | None) -> list[Experience]:
    """The same in parts of fewer rollouts, where those of a question hold more than `budget` tokens
    together: the pass with gradients is the one that takes the memory."""
    rollout, (questions, group) = part.rollout, part.rewards.accuracy.shape
    length = rollout.prompt_length + rollout.tokens.shape[1]
    if budget is None or len(rollout.p) * length <= budget:
        return [part]
    rows = torch.arange(len(rollout.p), device=rollout.tokens.device).view(questions, group)
    size, pieces = max(budget // (questions * length), 1), []
    for columns in (slice(start, start + size) for start in range(0, group, size)):
        these = rows[:, columns].flatten()
        pieces.append(
            replace(
                part,
                rollout=rollout.select(these),
                reference_logprobs=part.reference_logprobs[these],
                reference=part.reference and part.reference.select(these),
                columns=columns,
            )
        )
    return pieces


def largest(count: int, accelerator: Accelerator) -> int:
    """The largest count of all processes."""
    return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())
