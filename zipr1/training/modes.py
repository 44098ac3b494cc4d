"""Where completions come from and how they are scored: one object per mode of training.

EmbeddedTasks: sampled answers to the embedded tasks, which have one correct wording each.
DataRows: sampled answers to rows of a data set, which a grader or the user's function scores.
GivenCompletions: the data's own completions; nothing is sampled and nothing is graded.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from zipr1.data.example import Example
from zipr1.models.encode import encode
from zipr1.models.loading import tokenizer_of
from zipr1.rewards.functions import Functions, RewardLog, load_function, without_non_finite
from zipr1.rewards.graders import RIGHT_FROM
from zipr1.rewards.reward import Reward, reward
from zipr1.sparsity.rules import TopP
from zipr1.training.config import TrainConfig
from zipr1.training.draws import draw_thresholds, token_draws
from zipr1.training.grpo import share_ties
from zipr1.training.reference import (
    ReferenceScores,
    sample_reference,
    score_expected_answer,
    score_rollouts,
)
from zipr1.training.rollout import (
    Rollout,
    RolloutEngine,
    mean_logprob,
    pad_tokens,
)
from zipr1.training.sampling import sample, score_given

Reference = Callable[..., object]  # reference(work, ...) is work(reference model, ...)


def mode_of(
    config: TrainConfig,
    processor,
    functions: Functions | None = None,
    engine: RolloutEngine | None = None,
) -> "Sampled | GivenCompletions":
    """The mode that the settings ask for; `functions` are those of config.reward_function, unless
    they are functions in memory; `engine` samples in place of the policy."""
    functions = functions or load_function(config.reward_function)
    if config.completions == "given":
        return GivenCompletions(config, processor, functions)
    return (DataRows if config.data else EmbeddedTasks)(config, processor, functions, engine)


@dataclass(frozen=True)
class Mode:
    """What the modes share: the settings, the processor, and a rule with random thresholds."""

    config: TrainConfig
    processor: object
    functions: Functions | None = None
    engine: RolloutEngine | None = None

    @property
    def tokenizer(self):
        return tokenizer_of(self.processor)

    def rule(self, step: int, numbers: Sequence[int]) -> TopP:
        """Top-p with the thresholds of the rollouts of the questions number `numbers`."""
        config = self.config
        p = draw_thresholds(
            config.thresholds,
            config.seed,
            step,
            numbers,
            config.num_generations,
            config.dense_share,
        )
        return TopP(p, config.choice)


class Sampled(Mode):
    """Answers are sampled from the policy and graded."""

    supervised = False  # the score function of a reward, not a cross-entropy

    @torch.no_grad()
    def rollout(
        self, model, inputs, examples: list[Example], numbers: list[int], step: int, synced: bool
    ) -> Rollout:
        """The rollouts of some questions under random thresholds. Each image or video is encoded
        once per question, not once per rollout."""
        prompts = encode(model, inputs.to(model.device)), self.rule(step, numbers)
        settings = {
            "max_new_tokens": self.config.max_completion_length,
            "temperature": self.config.temperature,
            "draws": self.draws(step, numbers, self.config.num_generations).to(model.device),
            "scope": self.config.scope,
        }
        if self.engine is not None:
            return self.engine.sample(model, *prompts, examples, **settings)
        return sample(model, *prompts, **settings, synced=synced)

    def draws(
        self, step: int, numbers: list[int], group: int, reference: bool = False
    ) -> torch.Tensor:
        length = self.config.max_completion_length
        return token_draws(self.config.seed, step, numbers, group, length, reference)

    def rewards(self, examples: list[Example], rollout: Rollout, step: int) -> Reward:
        """What the rollouts earn, (B, G); a reward that is not finite is NaN."""
        tokens = rollout.tokens.masked_fill(~rollout.mask, self.tokenizer.pad_token_id)
        completions = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ids, non_finite = rollout.completion_ids(), []
        functions = self.functions
        log = RewardLog(step, self.config.max_steps, len(ids)) if functions else None
        if functions:
            functions = tuple(
                (weight, without_non_finite(one, non_finite)) for weight, one in functions
            )
        rewards = reward(
            examples, completions, rollout.token_ratio, self.config.graded, functions, ids, log
        )
        rewards.accuracy.view(-1)[non_finite] = math.nan
        if self.config.objective.share_ties:
            rewards.efficiency = share_ties(rewards.efficiency, ids)
        return rewards

    def score(self, examples: list[Example], rewards: Reward) -> torch.Tensor:
        """(B, G) 1 where an answer counts as correct, as on the probe set, else 0.

        Correct is a user's reward above one half; a grade that reaches the threshold of its problem
        type (graders.RIGHT_FROM), also where grades between 0 and 1 are earned.
        """
        if self.config.reward_function:
            return (rewards.accuracy > 0.5).float()
        least = torch.tensor([RIGHT_FROM.get(example.problem_type, 1.0) for example in examples])
        return (rewards.accuracy >= least[:, None]).float()


class EmbeddedTasks(Sampled):
    """The reference is asked for the probability of the expected answer, word for word."""

    def score_with_reference(
        self,
        reference: Reference,
        examples: list[Example],
        rollout: Rollout,
        numbers: list[int],
        step: int,
        synced: bool,
    ) -> tuple[ReferenceScores, torch.Tensor]:
        """The reference's scores and (B,) how well it answers each question."""
        return reference(score_expected_answer, self.tokenizer, examples, rollout)


class DataRows(Sampled):
    """The reference samples an answer of its own, which is graded: a row is correct in more than
    one wording. Only where the objective needs it, for it takes as long as a rollout."""

    def score_with_reference(
        self,
        reference: Reference,
        examples: list[Example],
        rollout: Rollout,
        numbers: list[int],
        step: int,
        synced: bool,
    ) -> tuple[ReferenceScores, torch.Tensor | None]:
        """The reference's scores and (B,) whether its answer is correct, or None."""
        needed = self.config.objective.asks_reference
        draws = self.draws(step, numbers, 1, reference=True) if needed else None
        group = self.config.num_generations
        scores, answers = reference(sample_reference, rollout, group, draws, synced)
        if answers is None:
            return scores, None
        return scores, self.score(examples, self.rewards(examples, answers, step))[:, 0]


class GivenCompletions(Mode):
    """The data's completions; policy and reference are compared by their mean log-probability."""

    supervised = True

    @torch.no_grad()
    def rollout(
        self, model, inputs, examples: list[Example], numbers: list[int], step: int, synced: bool
    ) -> Rollout:
        """The completions of some rows, each under random thresholds."""
        encoded, rule = encode(model, inputs.to(model.device)), self.rule(step, numbers)
        tokens, mask, clipped = self.tokens(examples, model.device)
        rollout = score_given(
            model, encoded, rule, tokens=tokens, mask=mask, scope=self.config.scope, synced=synced
        )
        return replace(rollout, clipped=clipped.repeat_interleave(self.config.num_generations))

    def tokens(
        self, examples: list[Example], device: torch.device | str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens and mask (B, T) of the completions, cut to the largest length, and (B,) which were
        cut. An answer in a chat ends its turn; running text continues."""
        length = self.config.max_completion_length
        end = [self.tokenizer.eos_token_id] if self.config.chat_template else []
        answers = [
            self.tokenizer.encode(example.answer, add_special_tokens=False) + end
            for example in examples
        ]
        clipped = torch.tensor([len(answer) > length for answer in answers], device=device)
        tokens, mask = pad_tokens([answer[:length] for answer in answers], 0, device)
        return tokens, mask, clipped

    def rewards(self, examples: list[Example], rollout: Rollout, step: int) -> Reward:
        """Their mean log-probability in place of accuracy, (B, G)."""
        logprobs = mean_logprob(rollout.logprobs, rollout.mask).cpu().view(len(examples), -1)
        ratio = rollout.token_ratio.cpu().view(len(examples), -1)
        return Reward(logprobs, 1 - ratio.float(), torch.zeros_like(logprobs, dtype=torch.bool))

    def score(self, examples: list[Example], rewards: Reward) -> torch.Tensor:
        """(B, G) their mean log-probability."""
        return rewards.accuracy

    def score_with_reference(
        self,
        reference: Reference,
        examples: list[Example],
        rollout: Rollout,
        numbers: list[int],
        step: int,
        synced: bool,
    ) -> tuple[ReferenceScores, torch.Tensor]:
        """The reference's scores and (B,) its mean log-probability of each completion."""
        scores = reference(score_rollouts, rollout, self.config.num_generations)
        expected = mean_logprob(scores.logprobs, rollout.mask).view(len(examples), -1).mean(-1)
        return scores, expected
