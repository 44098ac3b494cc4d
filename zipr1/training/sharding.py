"""How the model in training lies on the processes: whole in each of them, or sharded by FSDP2.

Replicated, Fsdp2 and zero.Zero have the same interface, which training.learner uses.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from zipr1.common.errors import InputError
from zipr1.models.families import decoder, vision_parts

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Policy(nn.Module):
    """Whatever runs the model goes through forward(), where DDP, FSDP2 and DeepSpeed have their
    hooks: policy(sample, ...) is sample(model, ...)."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, work: Callable, *args, **kwargs):
        return work(self.model, *args, **kwargs)


def trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class Replicated:
    """The whole model in the only process, or in each of several (DDP)."""

    collective = False  # whether each pass is one of all processes
    shards_weights = False  # whether no process holds them whole
    layout: str | None = None  # of the optimizer's state in a checkpoint; None: whole

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator

    def prepare(
        self, policy: Policy, adamw: Callable[[nn.Module], torch.optim.Optimizer], max_norm: float
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The policy on its devices, and its optimizer."""
        policy = self.distribute(policy)
        return policy, adamw(policy)

    def distribute(self, policy: Policy) -> nn.Module:
        policy = policy.to(self.accelerator.device)
        return self.accelerator.prepare_model(policy) if trainable(policy) else policy

    def prepare_reference(self, copy: Policy) -> nn.Module:
        """A frozen copy on its devices."""
        return self.distribute(copy)

    def unwrap(self, policy: nn.Module) -> nn.Module:
        """The transformers model inside."""
        return (policy.module if isinstance(policy, DistributedDataParallel) else policy).model

    @contextmanager
    def gathered(self, policy: nn.Module) -> Iterator[None]:
        """For several passes without gradients: sharded weights are gathered once."""
        yield

    @contextmanager
    def accumulate(self, policy: nn.Module, more: bool) -> Iterator[None]:
        """Gradients of the pass inside stay in their process while `more` passes are to come."""
        if more and isinstance(policy, DistributedDataParallel):
            with policy.no_sync():
                yield
        else:
            yield

    def backward(self, policy: nn.Module, loss: torch.Tensor) -> None:
        self.accelerator.backward(loss)

    def step(
        self, policy: nn.Module, optimizer: torch.optim.Optimizer, loss: float, max_norm: float
    ) -> tuple[torch.Tensor, bool]:
        """Clips by the gradient's norm over all processes and takes the step, unless `loss` or norm
        is not finite: (the norm, whether it was taken). The gradients are gone afterwards."""
        norm = nn.utils.clip_grad_norm_(trainable(policy), max_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        finite = bool(torch.isfinite(torch.as_tensor(loss)) and torch.isfinite(norm))
        if finite:
            optimizer.step()
        optimizer.zero_grad()
        return norm, finite

    def own_parts(self, policy: nn.Module) -> Iterator[torch.Tensor]:
        """The trained weights, or of sharded ones this process's parts."""
        for parameter in trainable(policy):
            yield parameter.to_local() if isinstance(parameter, DTensor) else parameter

    def whole_weights(self, policy: nn.Module, adapter: bool) -> dict[str, torch.Tensor] | None:
        """The gathered weights of a sharded model, or of its `adapter` alone; every process must
        call it, the main one gets them. None where they are whole already."""
        return None

    def optimizer_state(
        self, policy: nn.Module, optimizer: torch.optim.Optimizer, shards: Path
    ) -> dict:
        """What `restore` takes, by the names of the parameters, so that FSDP2 reads what DDP wrote
        and the other way round; every process must call it. DeepSpeed writes to `shards`."""
        return get_optimizer_state_dict(policy, optimizer, options=WHOLE)

    def restore(
        self, policy: nn.Module, optimizer: torch.optim.Optimizer, state: dict, shards: Path
    ) -> None:
        set_optimizer_state_dict(policy, optimizer, state, options=WHOLE)
        for parameter, moments in optimizer.state.items():
            for name, moment in moments.items():
                if torch.is_tensor(moment) and moment.ndim and moment.shape != parameter.shape:
                    shapes = f"{tuple(moment.shape)}, of a weight {tuple(parameter.shape)}"
                    raise ValueError(f"{name} has the shape {shapes}")


class Fsdp2(Replicated):
    """The model sharded over the processes layer by layer; whole nowhere but inside `gathered`."""

    collective = True
    shards_weights = True

    def distribute(self, policy: Policy) -> nn.Module:
        device = self.accelerator.device
        mesh = init_device_mesh(device.type, (self.accelerator.num_processes,))
        dtypes = {}
        if self.accelerator.mixed_precision == "bf16":  # gradients are summed in float32
            dtypes = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
        for layer in decoder(policy.model).layers:  # each moves to the device when it is sharded
            fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(**dtypes))
        # Not the vision tower: a process without images would leave the others waiting.
        vision = vision_parts(policy.model).values()
        ignored = {weight for part in vision for weight in part.to(device).parameters()}
        whole = MixedPrecisionPolicy(**dtypes, cast_forward_inputs=False)
        return fully_shard(policy, mesh=mesh, mp_policy=whole, ignored_params=ignored)

    @contextmanager
    def gathered(self, policy: nn.Module) -> Iterator[None]:
        """Layers stay whole once they are gathered, or sampling would gather each for every token.
        Afterwards everything is sharded again: FSDP2 leaves that to a backward pass for what lies
        outside the layers, and the optimizer's state cannot be read without it."""
        layers = list(decoder(self.unwrap(policy)).layers)
        for layer in layers:
            layer.set_reshard_after_forward(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.set_reshard_after_forward(True)
                layer.reshard()
            policy.reshard()

    @contextmanager
    def accumulate(self, policy: nn.Module, more: bool) -> Iterator[None]:
        """Gradients are reduced in each pass: unreduced ones would lie there whole."""
        yield

    def whole_weights(self, policy: nn.Module, adapter: bool) -> dict[str, torch.Tensor] | None:
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter
        )
        weights = get_model_state_dict(policy, options=options)
        return {name.removeprefix("model."): part for name, part in weights.items()}


def launched_for_fsdp() -> bool:
    """Whether accelerate's launcher was configured for FSDP, which is then what `fsdp: true` is.
    Raises InputError for launcher settings that are not supported."""
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return False
    supported = {"VERSION": "2", "CPU_RAM_EFFICIENT_LOADING": "false", "OFFLOAD_PARAMS": "false"}
    for name, value in supported.items():
        if (setting := os.environ.get(f"FSDP_{name}", value).lower()) != value:
            raise InputError(
                f"fsdp_{name.lower()}: {setting} in the launcher's configuration; set it to {value}"
            )
    return True
