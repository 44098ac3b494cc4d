"""What both mixins share: the block of sparse attention around a loss and its backward pass."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from zipr1.common.errors import InputError
from zipr1.models.families import decoder
from zipr1.models.positions import correct_positions
from zipr1.models.settings import write_settings
from zipr1.sparsity.budget import relaxed_count
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP
from zipr1.sparsity.settings import TrainingPass
from zipr1.sparsity.trace import Trace
from zipr1.training.choice_gradient import choice_gradient_pass
from zipr1.training.draws import draw_thresholds
from zipr1.trl.settings import SparseSettings


class SparseBlock:
    """Stands before a trainer of TRL in the bases of a class; adds its argument `sparse`.

    Evaluation is under the fixed p of the settings. A saved model has zipr1.json.
    """

    def __init__(self, *args, sparse: SparseSettings | None = None, **kwargs):
        self.sparse_settings = sparse or SparseSettings()
        self.block: ExitStack | None = None  # open until the backward pass of a step has ended
        self.part, self.part_of = 0, -1  # place in the gradient accumulation of which step
        super().__init__(*args, **kwargs)
        model = self.accelerator.unwrap_model(self.model)
        decoder(model)  # raises InputError for a family that cannot be sparse
        correct_positions(model)

    def training_step(self, *args, **kwargs):
        """The backward pass belongs to the block too: with gradient checkpointing it runs the
        layers again."""
        step = self.state.global_step
        self.part = self.part + 1 if step == self.part_of else 0
        self.part_of = step
        with ExitStack() as self.block:
            try:
                return super().training_step(*args, **kwargs)
            finally:
                self.block = None

    def enter(
        self, stack: ExitStack, p: tuple[float, ...], prompt_length: int | None, **replay
    ) -> Trace:
        """Opens the block of a pass over prompts of `prompt_length` columns and completions; None:
        of prompts alone."""
        settings, learned = self.sparse_settings, {}
        if settings.sparsity_weight and prompt_length and torch.is_grad_enabled():
            learned["relax"] = partial(relaxed_count, floor=settings.relax_floor)
        with_choice = learned and settings.choice_gradient
        new_pass = choice_gradient_pass if with_choice else TrainingPass
        return stack.enter_context(
            sparse(
                self.accelerator.unwrap_model(self.model),
                TopP(p, settings.choice),
                scope=settings.scope,
                prompt_length=prompt_length,
                training=new_pass(**learned, **replay),
            )
        )

    def drawn_thresholds(self, rows: int, group: int) -> tuple[float, ...]:
        """(rows,) thresholds of this process's rows: a function of seed, step and global row."""
        settings = self.sparse_settings
        if not self.model.training:
            return (settings.p,) * rows
        first = self.accelerator.process_index * rows
        questions = range(first // group, (first + rows - 1) // group + 1)
        p = draw_thresholds(
            settings.thresholds, self.args.seed, self.batch, questions, group, settings.dense_share
        )
        start = first - questions[0] * group
        return p[start : start + rows]

    @property
    def batch(self) -> int:
        """The number of the batch in the run: a function of the step, for a resumed run too."""
        return self.state.global_step * self.args.gradient_accumulation_steps + self.part

    def sparsity_term(
        self, trace: Trace, token_ratio: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        """The pathwise term, a mean over the rows; its metrics are logged. weight (B,): 1 where a
        row may be penalised."""
        settings = self.sparse_settings
        p = torch.tensor([one < 1 for one in self.thresholds], device=token_ratio.device)
        above = p & (token_ratio > settings.target_ratio)
        self.note("frac_above_target", above.float())
        relaxed = trace.relaxed_ratio
        return settings.sparsity_weight * (weight * above * relaxed).mean()

    def note(self, name: str, values: torch.Tensor) -> None:
        """Logs the mean over the rows (B,) of all processes."""
        mode = "train" if self.model.training else "eval"
        mean = self.accelerator.gather(values.detach().float()).mean().item()
        self._metrics[mode][name].append(mean)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        settings = self.sparse_settings
        own = {"rule": "TopP", "p": settings.p, "choice": settings.choice, "scope": settings.scope}
        write_settings(own | {"step": self.state.global_step}, folder)


def check_plain(arguments: dict[str, object]) -> None:
    """Raises InputError for options of TRL under which no pass would be sparse, or a wrong one."""
    for name, value in arguments.items():
        if value:
            raise InputError(f"{name}: not under sparse attention; leave it out")
