"""The state of a training run: model, optimizer, data, loggers."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator

from zipr1.data.example import Example
from zipr1.rewards.functions import Functions
from zipr1.training.config import TrainConfig
from zipr1.training.experience import Experience
from zipr1.training.grpo import Governor
from zipr1.training.learner import Learner
from zipr1.training.metrics import Log
from zipr1.training.modes import Mode
from zipr1.training.questions import Batch, Questions
from zipr1.training.row_hashes import RowHashes


@dataclass
class RunState:
    """The parts of a run, and what changes from step to step."""

    config: TrainConfig
    folder: Path
    accelerator: Accelerator
    learner: Learner
    mode: Mode
    questions: Questions
    probe: list[Example]  # the frozen probe set
    log: Log
    functions: Functions | None  # the user's reward functions

    governor: Governor
    rows: RowHashes  # which a resumed run must have again
    step: int = 0  # steps done
    taken: int = 0  # steps with at least one optimizer step
    skipped: int = 0  # steps with an optimizer step that was not taken: not finite
    skipped_in_a_row: int = 0
    dropped_in_a_row: int = 0  # steps in which a process had no usable row
    batches: list[Batch] = field(default_factory=list)  # of the last step, one per mini-batch
    parts: list[list[Experience]] = field(default_factory=list)  # the same
    quiet: bool = False  # nothing is said on the terminal
    told_left_out: bool = False  # a row that cannot be used was named on the terminal

    def end(self) -> None:
        """Ends trackers, the rollout engine and the group of processes, which the engine needs."""
        if self.mode.engine is not None:
            self.mode.engine.close()
        self.accelerator.end_training()

    def counts(self) -> dict:
        """What a checkpoint keeps of it beside the weights and the optimizer."""
        counts = {"skipped": self.skipped, "taken": self.taken, "rows": self.rows}
        return {"governor": asdict(self.governor)} | counts

    def restore_counts(self, state: dict) -> None:
        """Reads `counts`; checkpoints of version 0.1 have no "taken"."""
        self.step, self.skipped = state["step"], state["skipped"]
        self.taken = state.get("taken", self.step)
        self.governor = Governor(**state["governor"])
