"""DeepSpeed's ZeRO-2 and ZeRO-3, where accelerate's launcher was configured for them: what policy.py has for DDP and FSDP2.

deepspeed is imported here alone, and only then. It decides itself what is clipped and which step is not finite.
"""

import sys
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from zipr1.common.files import CheckpointError

TAG = "state"  # name of the one set of files that DeepSpeed writes to a folder


def stage(accelerator: Accelerator) -> int:
    """2 or 3; 0 without DeepSpeed. Raises ValueError for a configuration that would do something else."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return 0
    plugin = accelerator.state.deepspeed_plugin
    if plugin.zero_stage not in (2, 3):
        raise ValueError(
            f"zero_stage: {plugin.zero_stage} in the launcher's configuration; use 2 or 3, or no DeepSpeed"
        )
    return plugin.zero_stage


def whole_when_loaded() -> None:
    """Keeps transformers from sharding what it loads, as it does for ZeRO-3: the vision tower as well, and under other names
    (5.23 saves them as they are not loaded)."""
    unset_hf_deepspeed_config()


def is_engine(policy: nn.Module) -> bool:
    deepspeed = sys.modules.get("deepspeed")  # imported by whoever made an engine
    return deepspeed is not None and isinstance(policy, deepspeed.DeepSpeedEngine)


def shard(
    policy: nn.Module, optimizer: torch.optim.Optimizer, limit: float, accelerator: Accelerator
) -> nn.Module:
    """The engine of a policy and its optimizer: gradients and optimizer state over the processes (ZeRO-2), weights too
    (ZeRO-3). `limit` of the gradient's norm."""
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    # The loss divides by what there is (update.py); DeepSpeed is not to know of batches.
    settings |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": limit,
    }
    if settings.get("bf16", {}).get("enabled"):
        settings["bf16"]["check_grad_overflow"] = True  # a step that is not finite is not taken
    set_vision_apart(policy.model, accelerator.device)
    return accelerator.prepare(policy, optimizer)[0]


def shard_reference(copy: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A frozen model: sharded as the policy is under ZeRO-3, else whole in every process."""
    if stage(accelerator) == 2:
        return copy.to(accelerator.device)
    import deepspeed

    settings = deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
    settings["zero_optimization"].pop("offload_optimizer", None)  # it has none
    set_vision_apart(copy.model, accelerator.device)
    return deepspeed.initialize(model=copy, config=settings)[0]


def set_vision_apart(model, device: torch.device) -> None:
    """The vision tower becomes an attribute that is no submodule, which DeepSpeed does not see: whole in every process, or one
    whose batch has no picture would leave the others waiting."""
    if visual := model.model._modules.pop("visual", None):
        model.model.__dict__["visual"] = visual.to(device)


def step(engine) -> tuple[torch.Tensor, bool]:
    """(the gradient's norm over all processes, whether the step was taken); the gradients are gone afterwards."""
    engine.step()
    taken = engine.was_step_applied()
    return torch.tensor(float(engine.get_global_grad_norm() if taken else "nan")), taken


def whole_weights(engine, trained: bool, keep: bool) -> dict[str, torch.Tensor]:
    """The weights, or the `trained` ones alone, gathered; trained ones in the float32 that the optimizer has them in. Every
    process must call it; `keep`: this one gets them."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    model, found = engine.module.model, {}
    if hasattr(model.model, "visual") and not trained:
        found |= {
            f"model.visual.{name}": part.cpu()
            for name, part in model.model.visual.state_dict().items()
        }
    for name, part in model.state_dict(keep_vars=True).items():
        if part.requires_grad:
            whole = safe_get_full_fp32_param(part)
        elif trained:
            continue
        else:
            with deepspeed.zero.GatheredParameters([part], enabled=hasattr(part, "ds_id")):
                whole = part.detach().clone()
        if keep:
            found[name] = whole.cpu()
    return found


def write_state(engine, folder: Path) -> None:
    """The optimizer's state, each process its part; every process must call it. Raises CheckpointError if the disk is full."""
    try:
        engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=True)
    except (
        OSError,
        RuntimeError,
    ) as error:  # torch says RuntimeError of a full disk, and of much else: the text is its own
        raise CheckpointError(
            f"{folder}: could not be written ({error}); earlier checkpoints are intact; free some space and use --resume"
        ) from error


def read_state(engine, folder: Path) -> None:
    engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
