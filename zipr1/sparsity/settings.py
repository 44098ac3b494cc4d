"""Settings of a block of `zipr1.sparse`, and the state of one forward pass inside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import Cache

from zipr1.common.errors import InputError
from zipr1.common.scope import Scope
from zipr1.sparsity.layer_hooks import LayerHooks
from zipr1.sparsity.probes import Probes
from zipr1.sparsity.rules import Rule, TopP
from zipr1.sparsity.trace import Trace

NAME = "zipr1"  # of the attention function, the mask function and the keyword argument of a pass


@dataclass(frozen=True)
class TrainingPass:
    """What only a trainer sets for the passes of a block.

    replay: the kept tokens of an earlier trace, (B, prompt) per sparse layer, in place of a fresh
        choice.
    relax: (accumulated (B, L), p (B,), valid (B, L)) -> (B,), a differentiable count to record in
        the trace, such as `zipr1.relaxed_count`.
    sample_numbers: (B,) a number of each sample, by which a pass with a choice gradient draws the
        rows it samples under scope "layer" (`training.choice_gradient`).
    implementation: name of the attention function; `sparsity.naive` registers the tests' oracle.
    hooks: under scope "layer", makes what drops rows in place of `sparsity.gathered`.
    """

    replay: Sequence[torch.Tensor] | None = None
    relax: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    sample_numbers: Sequence[int] | None = None
    implementation: str = NAME
    hooks: Callable[[], LayerHooks] | None = None


@dataclass(frozen=True)
class Settings:
    """The arguments of `zipr1.sparse`."""

    rule: Rule
    rows: Rule | None = None
    scope: Scope = "attention"
    keep_kv: bool = False
    min_tokens: int = 0
    prompt_length: int | Sequence[int] | None = None
    training: TrainingPass = field(default_factory=TrainingPass)

    def __post_init__(self):
        if self.joint + (self.rows is not None) + (self.scope == "keys") > 1:
            raise InputError(
                f"scope={self.scope!r}, rows={self.rows!r}, rule={self.rule!r}: rows=, "
                "masks='joint' and scope='keys' each say which queries are computed; give one"
            )
        if isinstance(self.rows, TopP) and self.rows.masks == "joint":
            raise InputError("rows=TopP(masks='joint'): give this rule as `rule`, without rows=")
        if (self.joint or self.rows is not None) and (self.training.replay or self.training.relax):
            raise InputError(
                "rows= and masks='joint' cannot be trained: train with scope='keys' or with one "
                "mask for queries and keys"
            )

    @property
    def joint(self) -> bool:
        """Whether the rule itself selects queries and keys separately."""
        return isinstance(self.rule, TopP) and self.rule.masks == "joint"

    @property
    def separate(self) -> bool:
        """Whether queries and keys are selected separately."""
        return self.rows is not None or self.scope == "keys" or self.joint


@dataclass
class ForwardPass:
    """One forward pass of the decoder.

    cache: the KV cache that the pass fills or continues.
    past: tokens seen before this pass; 0 for a prefill.
    hooks: made by `TrainingPass.hooks`.
    attention: in place of sparse attention, for a layer that runs on some of its rows.
    prompt_length: columns of the pass that belong to a prompt, of all rows or of each; None: all.
    probes: found by the first layer that needs scores.
    visual: (B, L) bool, the tokens of images and videos; None for a pass over embeddings.
    padding, visible: (B, L) and (B, L, L) bool, what the first sparse layer found in a mask that is
        more than causal (`layers.padding_of`); None under a causal one.
    """

    settings: Settings
    trace: Trace
    cache: Cache | None = None
    past: int = 0
    hooks: LayerHooks | None = None
    attention: Callable | None = None
    prompt_length: int | Sequence[int] | None = None
    probes: Probes | None = None
    visual: torch.Tensor | None = None
    padding: torch.Tensor | None = None
    visible: torch.Tensor | None = None
