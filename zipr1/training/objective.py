"""The objective of post-training and its two presets."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Objective:
    """What a training step minimises (training.loss).

    What the presets differ in:

    efficiency_reward: weight of 1 - token ratio in the reward, whose gradient is that of the score
        function (Eq. 4).
    sparsity_weight: weight of the pathwise gradient of the token ratio, or of another measure of
        how many tokens attention needs (`sharpness`).
    gate: which rollouts may earn for sparsity, in either way.
    kl: KL(policy || reference) estimated from the sampled tokens as GRPO does ("sampled") or over
        the full vocabulary ("full"), or KL(reference || policy) over the full vocabulary
        ("forward"), whose gradient does not vanish where the policy is sure of a token that the
        reference finds improbable.
    beta: weight of the KL to the dense reference.
    reward_weight: weight of the clipped surrogate, the reward's score function; of given
        completions, of their cross-entropy.
    baseline: what is subtracted from a reward for its advantage: the mean of its "group" (Eq. 4),
        or one minus the probability that the dense "reference" answers correctly, of far less
        variance where most answers are correct (grpo.reference_advantages).
    std_floor: least standard deviation that group advantages are divided by; 1 leaves rewards of
        at most 1 undivided.
    share_ties: equal answers of a group earn the mean of their efficiencies, instead of opposite
        advantages for the same tokens.
    governed: the sparsity weight follows the running accuracy, so that accuracy is constrained.
    choice_gradient: where there is a sparsity weight, the selection of tokens gets a gradient as
        well (training.choice_gradient).

    The same in both presets:

    importance_sampling_level: whether a "token" or the "sequence" has an importance ratio that is
        clipped (grpo.clipped_surrogate); loss_type: how the tokens of an answer are averaged.
    epsilon: clip range of the importance ratio.
    target_ratio: token ratio at which the sparsity term stops penalising a rollout.
    give_back: weight, in units of sparsity_weight, of the negative sparsity term on sparse rollouts
        that are incorrect where the reference is correct.
    sharpness, relax_floor: what the sparsity term makes small (training.sharpness), and the bound
        of its gradient.
    max_completion_length: the constant that loss_type "dr_grpo" divides by.
    """

    efficiency_reward: float
    sparsity_weight: float
    gate: Literal["none", "group", "answer"]
    kl: Literal["sampled", "full", "forward"]
    beta: float
    reward_weight: float
    baseline: Literal["group", "reference"]
    std_floor: float
    share_ties: bool
    governed: bool
    choice_gradient: bool
    importance_sampling_level: Literal["token", "sequence"] = "token"
    loss_type: Literal["grpo", "dr_grpo"] = "grpo"
    epsilon: float = 0.2
    target_ratio: float = 0.2
    give_back: float = 0.0
    sharpness: Literal["count", "entropy", "soft_count"] = "count"
    relax_floor: float = 0.1
    max_completion_length: int = 6

    @property
    def asks_reference(self) -> bool:
        """Whether anything depends on how often the dense reference answers correctly."""
        return self.governed or self.baseline == "reference"


PRESETS = {
    # ZipR1, Eq. 4 and 5; "we equally combine" the two rewards (section 2.2). As in GRPO: the KL,
    # its weight, and importance ratios of tokens, averaged over an answer.
    "paper": Objective(
        efficiency_reward=1.0,
        sparsity_weight=0.0,
        gate="none",
        kl="sampled",
        beta=0.04,
        reward_weight=1.0,
        baseline="group",
        std_floor=1e-4,
        share_ties=False,
        governed=False,
        choice_gradient=False,
    ),
    # The same objective with the pathwise term of its gradient, a straight-through gradient for the
    # selection of tokens, and accuracy constrained by what was measured to hold it; advantages
    # undivided as in Dr. GRPO (arXiv 2503.20783).
    "exact": Objective(
        efficiency_reward=0.0,
        sparsity_weight=10.0,
        gate="answer",
        kl="forward",
        beta=5.0,
        reward_weight=3.0,
        baseline="reference",
        std_floor=1.0,
        share_ties=False,
        governed=True,
        choice_gradient=True,
    ),
}
