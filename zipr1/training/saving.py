"""Writes checkpoints and the final model, and uploads it."""

from pathlib import Path

from huggingface_hub import HfApi

from zipr1.training import checkpoint
from zipr1.training.guards import check_result, check_weights
from zipr1.training.metrics import final_row
from zipr1.training.model_card import model_card
from zipr1.training.run_state import RunState


def save_checkpoint(run: RunState) -> None:
    """Writes checkpoint-{step}; every process must call it."""
    check_weights(run)
    learner = run.learner
    state = {
        "optimizer": learner.optimizer_state(checkpoint.shards(run.folder)),
        "layout": learner.layout,
    } | run.counts()
    weights = learner.whole_weights()
    if run.accelerator.is_main_process:
        checkpoint.write(run.folder, run.step, learner, weights, state, run.config)


def save_result(run: RunState) -> Path:
    """Writes, and if asked uploads, the final model; every process must call it."""
    check_result(run)
    check_weights(run)
    config, final = run.config, run.folder / "final"
    weights = run.learner.whole_weights()
    if run.accelerator.is_main_process:
        with checkpoint.atomic_folder(final) as partial:
            settings = checkpoint.model_settings(config, run.step)
            run.learner.save(partial, settings, weights)
            family = run.learner.model.config.model_type
            model_card(config, final_row(run.folder), family).save(partial / "README.md")
    run.accelerator.wait_for_everyone()
    run.end()
    if run.accelerator.is_main_process and config.push_to_hub:
        HfApi().upload_folder(repo_id=config.push_to_hub, folder_path=final)
    return final
