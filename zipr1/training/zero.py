"""DeepSpeed's ZeRO-2 and ZeRO-3, where accelerate's launcher was configured for them.

deepspeed is imported here alone, and only then. It decides itself what is clipped and which step is
not finite.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from zipr1.common.errors import InputError
from zipr1.common.files import CheckpointError
from zipr1.models.families import vision_parts
from zipr1.training.sharding import Policy, Replicated, trainable

TAG = "state"  # name of the one set of files that DeepSpeed writes to a folder


def launched_stage(accelerator: Accelerator) -> int:
    """2 or 3; 0 without DeepSpeed. Raises InputError for another stage."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return 0
    stage = accelerator.state.deepspeed_plugin.zero_stage
    if stage not in (2, 3):
        raise InputError(
            f"zero_stage: {stage} in the launcher's configuration; use 2 or 3, or no DeepSpeed"
        )
    return stage


class Zero(Replicated):
    """The engine of a policy and its optimizer: gradients and optimizer state over the processes
    (ZeRO-2), weights too (ZeRO-3)."""

    collective = True

    def __init__(self, accelerator: Accelerator, stage: int):
        super().__init__(accelerator)
        self.stage, self.shards_weights = stage, stage == 3
        self.layout = f"ZeRO-{stage} over {accelerator.num_processes} processes"
        # transformers would shard what it loads for ZeRO-3: the vision tower as well, and under
        # other names (5.23 saves them as they are not loaded).
        unset_hf_deepspeed_config()

    def prepare(
        self, policy: Policy, adamw: Callable[[nn.Module], torch.optim.Optimizer], max_norm: float
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        settings = self.accelerator.state.deepspeed_plugin.deepspeed_config
        # The loss divides by the rollouts there are (training_step.py); DeepSpeed must not divide again.
        settings |= {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": max_norm,
        }
        if settings.get("bf16", {}).get("enabled"):
            settings["bf16"]["check_grad_overflow"] = True  # a non-finite step is not taken
        self.set_vision_apart(policy.model)
        engine = self.accelerator.prepare(policy, adamw(policy))[0]
        return engine, engine.optimizer

    def prepare_reference(self, copy: Policy) -> nn.Module:
        """Sharded as the policy is under ZeRO-3, else whole in every process."""
        if self.stage == 2:
            return copy.to(self.accelerator.device)
        import deepspeed

        settings = deepcopy(self.accelerator.state.deepspeed_plugin.deepspeed_config)
        settings["zero_optimization"].pop("offload_optimizer", None)  # it has none
        self.set_vision_apart(copy.model)
        return deepspeed.initialize(model=copy, config=settings)[0]

    def set_vision_apart(self, model) -> None:
        """The vision tower becomes an attribute that is no submodule, which DeepSpeed does not see:
        whole in every process, or one whose batch has no image would leave the others waiting."""
        self.apart = vision_parts(model)
        for name, part in self.apart.items():
            del model.base_model._modules[name]
            model.base_model.__dict__[name] = part.to(self.accelerator.device)

    def unwrap(self, policy: nn.Module) -> nn.Module:
        return getattr(policy, "module", policy).model

    @contextmanager
    def accumulate(self, policy: nn.Module, more: bool) -> Iterator[None]:
        policy.set_gradient_accumulation_boundary(not more)
        yield

    def backward(self, policy: nn.Module, loss: torch.Tensor) -> None:
        policy.backward(loss)

    def step(
        self, policy: nn.Module, optimizer: torch.optim.Optimizer, loss: float, max_norm: float
    ) -> tuple[torch.Tensor, bool]:
        policy.step()
        taken = policy.was_step_applied()
        return torch.tensor(float(policy.get_global_grad_norm() if taken else "nan")), taken

    def own_parts(self, policy: nn.Module) -> Iterator[torch.Tensor]:
        for parameter in trainable(policy):  # ZeRO-3 keeps a process's part beside an empty tensor
            yield getattr(parameter, "ds_tensor", parameter)

    def whole_weights(self, policy: nn.Module, adapter: bool) -> dict[str, torch.Tensor] | None:
        """Trained weights are in the float32 that the optimizer has them in."""
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        model, weights = self.unwrap(policy), {}
        for name in () if adapter else self.apart:
            for key, part in getattr(model.base_model, name).state_dict().items():
                weights[f"{model.base_model_prefix}.{name}.{key}"] = part.cpu()
        for name, part in model.state_dict(keep_vars=True).items():
            if part.requires_grad:
                whole = safe_get_full_fp32_param(part)
            elif adapter:
                continue
            else:
                with deepspeed.zero.GatheredParameters([part], enabled=hasattr(part, "ds_id")):
                    whole = part.detach().clone()
            if self.accelerator.is_main_process:
                weights[name] = whole.cpu()
        return weights

    def optimizer_state(
        self, policy: nn.Module, optimizer: torch.optim.Optimizer, shards: Path
    ) -> dict:
        """Each process writes its part. Raises CheckpointError if the disk is full."""
        try:
            policy.save_checkpoint(str(shards), tag=TAG, exclude_frozen_parameters=True)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise CheckpointError(
                f"{shards}: could not be written ({error}); earlier checkpoints are intact; free "
                "some space and use --resume"
            ) from error
        return {}

    def restore(
        self, policy: nn.Module, optimizer: torch.optim.Optimizer, state: dict, shards: Path
    ) -> None:
        policy.load_checkpoint(str(shards), tag=TAG, load_module_strict=False)
