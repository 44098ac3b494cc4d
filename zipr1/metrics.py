"""Where the numbers of a training run go: metrics.jsonl, the trackers, run.json. What each means: docs/metrics.md."""

import json
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator

from zipr1.config import TrainConfig
from zipr1.provenance import provenance


class Log:
    """log(step, record); only the main process writes. Rows after `start` are dropped: those of a run that was killed between
    two checkpoints."""

    def __init__(self, folder: Path, accelerator: Accelerator, config: TrainConfig, start: int):
        self.path, self.accelerator = folder / "metrics.jsonl", accelerator
        accelerator.init_trackers(config.report_to)
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "run.json").write_text(json.dumps({"config": asdict(config)} | provenance(), indent=1))
            rows = self.path.read_text().splitlines() if self.path.exists() else []
            kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= start] if start else []
            self.path.write_text("".join(row + "\n" for row in kept))

    def __call__(self, step: int, record: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step} | record) + "\n")
        self.accelerator.log(record, step=step)
