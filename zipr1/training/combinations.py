"""Which settings of a training exclude each other."""

from zipr1.common.errors import InputError
from zipr1.training.objective import Objective


def check_combinations(config, objective: Objective) -> None:
    """Raises InputError for settings of a TrainConfig that exclude each other.

    objective: its preset with what was set by hand.
    """
    compared = config.completions != "given" and objective.asks_reference
    if config.give_back and objective.sparsity_weight and not compared:
        raise InputError(
            f"give_back={config.give_back}: needs sampled answers, and governed: true to ask the "
            "reference; else set it to 0"
        )
    if objective.baseline == "reference" and objective.efficiency_reward:
        raise InputError(
            "baseline=reference: for rewards of 0 or 1 alone; set efficiency_reward to 0"
        )
    if objective.baseline == "reference" and (config.graded or config.reward_function):
        raise InputError(
            "baseline=reference: for rewards of 0 or 1, which graded and reward_function do "
            "not give; set baseline to group"
        )
    if config.completions == "given" and objective.gate != "none":
        raise InputError(
            "completions=given: nothing is sampled, so no answer is correct or incorrect; set "
            "gate: none"
        )
    if config.rollouts == "vllm" and config.completions == "given":
        raise InputError("rollouts=vllm: completions=given samples nothing; leave it out")
    if (
        objective.baseline == "group"
        and config.num_generations < 2
        and config.completions != "given"
    ):
        raise InputError(
            f"num_generations={config.num_generations}: with baseline=group the advantage of a "
            "single answer is always 0; give at least 2"
        )
    if config.data and not config.probe_data:
        raise InputError(
            f"data={config.data[:80]}: name probe_data too, rows to measure on that are not trained on"
        )
    if config.prompts_per_step % config.mini_batches:
        raise InputError(
            f"mini_batches={config.mini_batches}: must divide "
            f"prompts_per_step={config.prompts_per_step}"
        )
    if config.use_peft and config.lora_target_modules == []:
        raise InputError("lora_target_modules=[]: use_peft trains none; name some, or leave it out")
