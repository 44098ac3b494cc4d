"""What is wrong with a choice of tokens: refused with the name of the rule and of the layer."""

import torch

from zipr1.common.errors import InputError, RunError
from zipr1.sparsity.probes import Scores
from zipr1.sparsity.rules import Rule


class NotFinite(RunError):
    """Attention scores are infinite or NaN: no token can be chosen."""


def checked_choice(rule: Rule, scores: Scores) -> torch.Tensor:
    """(B, L) bool, what the rule keeps. Raises InputError for anything else that it returns."""
    chosen, valid = rule.keep(scores), scores.valid
    if not isinstance(chosen, torch.Tensor):
        found = type(chosen).__name__
    else:
        found = f"a {chosen.dtype} tensor of shape {tuple(chosen.shape)} on {chosen.device}"
        if (chosen.dtype, chosen.shape, chosen.device) == (torch.bool, valid.shape, valid.device):
            return chosen
    raise InputError(
        f"{type(rule).__name__}.keep returned {found} in layer {scores.layer}: expected a "
        f"torch.bool tensor of shape {tuple(valid.shape)} on {valid.device}"
    )


def check_faults(faults: "tuple[Faults, ...]", flags: list[bool | int]) -> None:
    """Raises for the first of `flags`, of all `faults` in order, that is set."""
    for i, fault in enumerate(faults):
        fault.check(flags[4 * i : 4 * i + 4])


class Faults:
    """The faults of a layer's choice (B, L), which can be told after a device synchronisation only.

    flags: (4,) bool: a prompt without a token, scores that are not finite, a last token that is not
        kept, padding or completion tokens that the rule keeps.
    """

    def __init__(
        self,
        rule: Rule,
        layer: int,
        chosen: torch.Tensor,
        prompt: torch.Tensor,
        dtype: torch.dtype = torch.float32,
        scores: Scores | None = None,
    ):
        self.rule, self.layer, self.dtype = type(rule).__name__, layer, dtype
        self.chosen, self.prompt = chosen, prompt
        read = scores is not None and "probed" in vars(scores)  # the rule has read the scores
        rank, length = prompt.long().cumsum(-1), prompt.sum(-1, keepdim=True)
        flags = (
            length == 0,
            ~scores.accumulated.isfinite() if read else torch.zeros_like(prompt),
            prompt & (rank == length) & ~chosen,
            chosen & ~prompt,
        )
        self.flags = torch.stack([flag.any() for flag in flags])

    def check(self, flags: list[bool | int]) -> None:
        """Raises for the first of `flags` that is set: InputError, or RunError for the scores."""
        empty, infinite, last, outside = flags
        place = f"in layer {self.layer}"
        if empty:
            row = self.rows(~self.prompt.any(-1))
            raise InputError(
                f"row {row} has no prompt: all its tokens are padding, or completion tokens by "
                "its labels, logits_to_keep or prompt_length; set the labels of its prompt to -100"
            )
        if infinite:
            fix = "load the model with dtype='bfloat16'"
            if self.dtype != torch.float16:
                fix = "its weights or its inputs hold infinite numbers or NaN"
            raise NotFinite(f"the attention scores {place} are not finite in {self.dtype}: {fix}")
        if last:
            what = "the last token of the prompt" if self.chosen.any() else "no token at all"
            verb = "drops" if self.chosen.any() else "keeps"
            raise InputError(
                f"{self.rule} {verb} {what} {place}: a rule must keep the last token, from which "
                "the first generated one is predicted"
            )
        if outside:
            row = self.rows((self.chosen & ~self.prompt).any(-1))
            raise InputError(
                f"{self.rule} keeps padding or completion tokens {place}, row {row}: return only "
                "tokens of scores.valid"
            )

    @staticmethod
    def rows(found: torch.Tensor) -> int:
        """The first row (B,) with a fault."""
        return int(found.nonzero()[0, 0])
