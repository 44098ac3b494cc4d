"""ZipR1: rollout -> reward -> advantage -> update, on one screen.

Policy: the model under Top-p sparse attention; reference: the same model, frozen, dense. Every random number is a function
of (seed, step, question), so that a run that was killed ends with the same weights as one that was not, and several
processes do what one would.
"""

import ctypes
import math
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    parse_flag_from_env,
)
from huggingface_hub import HfApi
from tqdm.auto import tqdm

from zipr1.common.clock import Stopwatch
from zipr1.models.loading import tokenizer_of
from zipr1.models.saving import save
from zipr1.rewards.functions import load_function, summary
from zipr1.training import checkpoint
from zipr1.training.config import TrainConfig
from zipr1.training.experience import gather_experience
from zipr1.training.grpo import Governor
from zipr1.training.loss import update
from zipr1.training.metrics import Log, final_row
from zipr1.training.model_card import model_card
from zipr1.training.policy import (
    gathered,
    in_step,
    layout,
    load_policy,
    optimizer_state,
    restore_optimizer,
    unwrap,
    whole_weights,
)
from zipr1.training.probe_set import measure
from zipr1.training.questions import Questions, kinds_of, longest_prompt, probe_questions
from zipr1.training.rollout import Experience

PATIENCE = timedelta(
    hours=3
)  # of processes for each other: one alone gathers and writes a large checkpoint
RETURN_EVERY = (
    60.0  # seconds between two returns of freed memory; at every step they cost up to a tenth of it
)


def train(config: TrainConfig, quiet: bool = False, line: int = 0) -> Path:
    """Post-trains and returns the folder of the final model: a transformers folder or an adapter, with zipr1.json. `line` of
    the terminal is where the progress bar goes, if several processes draw one."""
    torch.set_num_threads(config.threads)
    folder = Path(config.output_dir)
    accelerator = start_processes(config, folder)
    if (
        not accelerator.log_with
    ):  # accelerate leaves out a tracker that it does not find, without a word
        raise ModuleNotFoundError(f"report_to={config.report_to}: pip install {config.report_to}")
    config.check_processes(accelerator.num_processes)
    found = checkpoint.last(folder, config) if config.resume else None
    if not config.resume and checkpoint.checkpoints(folder):
        raise ValueError(
            f"{folder}: holds checkpoints of an earlier run; give --resume, or another output_dir"
        )
    if not found and (folder / "final").exists():
        raise ValueError(
            f"{folder}: holds the result of an earlier run, no checkpoint to go on from; give another output_dir"
        )
    starts = torch.tensor([found[1]["step"] if found else 0], device=accelerator.device)
    if (starts := accelerator.gather(starts)).unique().numel() > 1:
        raise ValueError(
            f"{folder}: processes found different checkpoints (steps {starts.tolist()}): share the folder among nodes"
        )
    if accelerator.is_main_process:
        checkpoint.clear(folder)
    load_function(config.reward_function)  # a misspelt name is found before an hour has passed
    if config.push_to_hub and accelerator.is_main_process:
        HfApi().create_repo(config.push_to_hub, exist_ok=True)  # and a hub that refuses
    policy, reference, optimizer, processor = load_policy(
        config, found[0] if found else config.model, accelerator
    )
    questions = Questions(config, processor, longest_prompt(unwrap(policy), config))
    probe = probe_questions(config, processor, questions.longest)
    start, skipped, empty, governor = (
        0,
        0,
        0,
        Governor(config.accuracy_tolerance, config.accuracy_margin),
    )
    if found:
        state = found[1]
        start, skipped, governor = state["step"], state["skipped"], Governor(**state["governor"])
        checkpoint.check_layout(found[0], state.get("layout"), layout(policy))
        restore_optimizer(policy, optimizer, state["optimizer"], found[0] / checkpoint.SHARDS)
    log = Log(folder, accelerator, config, start)
    if not found:
        with gathered(policy):
            log(0, policy(measure, processor, probe, config, in_step(policy)))

    returned = time.monotonic()
    steps = range(start, config.max_steps)
    hidden = quiet or not accelerator.is_main_process
    bar = tqdm(
        steps,
        desc=config.preset,
        unit="step",
        disable=hidden,
        initial=start,
        total=config.max_steps,
        position=line,
    )
    for step in bar:
        began, watch = time.perf_counter(), Stopwatch(accelerator.device)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config)
        policy.eval()
        with watch("read"):
            asked = [questions.read(numbers, step) for numbers in shares(step, config, accelerator)]
        fewest, failed = everywhere(
            accelerator, min(len(one[0]) for one in asked), len(questions.failed)
        )
        log.failed(step + 1, questions.failed)
        questions.failed.clear()
        record, parts, empty = (
            {"failed_rows": failed, "dropped": float(not fewest)},
            [],
            0 if fewest else empty + 1,
        )
        own: dict[str, float] = {}
        if fewest:  # without a question, a process would leave the others waiting
            parts = [
                gather_experience(
                    policy, reference, processor, accelerator, one, step, config, watch
                )
                for one in asked
            ]
            if config.reward_function:
                own = summary(
                    {
                        id(one.rewards.log): one.rewards.log for part in parts for one in part
                    }.values()
                )
            policy.train()
            order = [part for _ in range(config.num_iterations) for part in parts]
            records = [
                update(policy, optimizer, accelerator, part, governor, config, watch)
                for part in order
            ]
            record |= {
                name: sum(one[name] for one in records) / len(records) for name in records[0]
            }
            for name in kinds_of(config):
                gap, share = record.pop(f"gap/{name}", 0.0), record.pop(f"sparse/{name}", 0.0)
                if share and math.isfinite(gap) and not record["skipped"]:
                    governor.update(name, gap / share)
            skipped += record["skipped"] > 0
        for name, gap in governor.gaps.items():
            record |= {
                f"governor/gap/{name}": gap,
                f"governor/factor/{name}": governor.factor(name),
            }
        record |= {
            "learning_rate": optimizer.param_groups[0]["lr"],
            "step_time": time.perf_counter() - began,
        }
        record |= {f"seconds/{part}": seconds for part, seconds in watch.seconds.items()}
        if (step + 1) % config.probe_every == 0 or step + 1 == config.max_steps:
            policy.eval()
            with gathered(policy):
                record |= policy(measure, processor, probe, config, in_step(policy))
            if accelerator.is_main_process and parts:
                log.samples(
                    step + 1,
                    tokenizer_of(processor),
                    [one for group in parts for one in group if one.weight],
                )
        if taken := own.keys() & record.keys():
            raise ValueError(
                f"log_metric: {', '.join(sorted(taken))}: zipr1's own (docs/reference/metrics.md); choose another name"
            )
        log(step + 1, record | own)
        stop_if_lost(skipped, empty, asked, parts, step, folder, accelerator, config)
        if fewest:
            bar.set_postfix(reward=f"{record['reward']:.2f}", ratio=f"{record['token_ratio']:.2f}")
        if time.monotonic() > returned + RETURN_EVERY:
            returned = time.monotonic()
            return_memory()
        if (step + 1) % config.save_steps == 0 and step + 1 < config.max_steps:
            state = {
                "optimizer": optimizer_state(policy, optimizer, checkpoint.shards(folder)),
                "layout": layout(policy),
            }
            state |= {"governor": asdict(governor), "skipped": skipped}
            weights = whole_weights(policy)
            if accelerator.is_main_process:
                checkpoint.write(
                    folder, step + 1, unwrap(policy), processor, state, config, weights
                )
            del state, weights  # of 7B 90 GB, until the next
    final, weights = folder / "final", whole_weights(policy)
    if accelerator.is_main_process:
        with checkpoint.whole(final) as partial:
            save(
                unwrap(policy),
                processor,
                partial,
                checkpoint.settings(config, config.max_steps),
                weights,
            )
            model_card(config, final_row(folder), unwrap(policy).config.model_type).save(
                partial / "README.md"
            )
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if accelerator.is_main_process and config.push_to_hub:
        HfApi().upload_folder(repo_id=config.push_to_hub, folder_path=final)
    return final


def start_processes(config: TrainConfig, folder: Path) -> Accelerator:
    """This process among those that a launcher started; on a machine without an accelerator they talk by gloo."""
    cpu, group = not torch.accelerator.is_available(), InitProcessGroupKwargs(timeout=PATIENCE)
    if cpu and parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        group.backend = "gloo"  # without it accelerate takes each for the only one
        cpu = False  # accelerate would forget DeepSpeed
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False), group]  # no buffer changes
    precision = "bf16" if config.bf16 else "no"
    if config.bf16 and not cpu:
        torch.backends.cuda.matmul.allow_tf32 = (
            True  # products that are left in float32, in `membership` above all
        )
    log = {"log_with": config.report_to, "project_dir": folder}
    return Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=handlers, **log)


def stop_if_lost(
    skipped: int,
    empty: int,
    asked: list,
    parts: list[list[Experience]],
    step: int,
    folder: Path,
    accelerator: Accelerator,
    config: TrainConfig,
) -> None:
    """Raises FloatingPointError or ValueError where going on would only cost time; the batch of the last step is saved."""
    if skipped > config.max_skipped_steps:
        file = folder / f"not-finite-{accelerator.process_index}.pt"
        batch = [[one.record() for one in part] for part in parts]
        try:
            torch.save(
                {"step": step, "questions": [numbers for numbers, _, _ in asked], "parts": batch},
                file,
            )
            saved = f"the last batch is in {file}"
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            saved = f"the last batch could not be written to {file} ({error})"
        mend = "lower learning_rate or raise relax_floor"
        if config.reward_function and not all(
            one.rewards.accuracy.isfinite().all() for part in parts for one in part
        ):
            mend = f"mend {config.reward_function}"
        raise FloatingPointError(
            f"step {step + 1}: {skipped} steps had a loss, gradient or reward that is not finite; {mend} and use --resume; "
            f"{saved}"
        )
    if empty > config.max_skipped_steps:
        raise ValueError(
            f"step {step + 1}: {empty} steps in a row in which a process had no usable row; {folder}/failed-rows-*.jsonl says "
            "why; mend the rows, or raise prompts_per_step, so that a process draws more than one"
        )


def everywhere(accelerator: Accelerator, fewest: int, failed: int) -> tuple[int, int]:
    """The least of the one and the sum of the other over all processes."""
    found = accelerator.gather(torch.tensor([[fewest, failed]], device=accelerator.device))
    return int(found[:, 0].min()), int(found[:, 1].sum())


def shares(step: int, config: TrainConfig, accelerator: Accelerator) -> list[range]:
    """This process's questions of a step, a range of each mini-batch: their numbers in the whole run."""
    size = config.prompts_per_step // config.mini_batches
    own = size // accelerator.num_processes
    starts = [
        step * config.prompts_per_step + i * size + accelerator.process_index * own
        for i in range(config.mini_batches)
    ]
    return [range(start, start + own) for start in starts]


def return_memory() -> None:
    """Gives freed memory back to the system, which glibc does not do by itself while a later block lies behind it: tokens kept
    differ from step to step, and with them the sizes of tensors, so that of 9 GB resident 6 were free and a run that needs 4
    was killed at 22. Elsewhere nothing is done."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, constant, linear decay to zero."""
    up = (step + 1) / max(config.warmup_steps, 1)
    down = (config.max_steps - step) / max(config.decay_share * config.max_steps, 1)
    return min(1.0, up, down)
