"""The model in training: alone, in several processes (DDP) or sharded over them (FSDP2, ZeRO); whole or by LoRA; reference."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from zipr1.models.adapters import is_adapter
from zipr1.models.families import decoder
from zipr1.models.loading import load
from zipr1.training import zero
from zipr1.training.config import TrainConfig
from zipr1.training.questions import check_prompts

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class Policy(nn.Module):
    """Whatever runs the model goes through forward(), where DDP and FSDP2 have their hooks: policy(sample, ...) is
    sample(model, ...)."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, work: Callable, *args, **kwargs):
        return work(self.model, *args, **kwargs)


class Reference:
    """The same model, frozen and dense: a second copy, or with LoRA the policy itself without its adapter."""

    def __init__(self, policy: nn.Module, copy: nn.Module | None):
        self.policy, self.copy = policy, copy

    @torch.no_grad()
    def __call__(self, work: Callable, *args, **kwargs):
        """work(model, ...) on the reference."""
        if self.copy is not None:
            with gathered(self.copy):
                return self.copy(work, *args, **kwargs)
        model = unwrap(self.policy)
        model.disable_adapters()
        try:
            with gathered(self.policy):
                return self.policy(work, *args, **kwargs)
        finally:
            model.enable_adapters()


def load_policy(config: TrainConfig, source: str | Path, accelerator: Accelerator) -> tuple:
    """(policy, reference, optimizer, processor); `source` is the model, or the checkpoint of it to go on from.

    The vision tower is frozen: a picture is encoded once, and what becomes sparse is the decoder's attention.
    """
    sharded = config.fsdp or launched_for_fsdp()
    if sharded and not torch.distributed.is_initialized():
        raise ValueError(
            "fsdp: needs a launcher: torchrun --nproc_per_node N -m zipr1.cli train ..."
        )
    if is_adapter(config.model):
        raise ValueError(
            f"{config.model}: an adapter; merge it into its base (model.merge_adapter, save_pretrained) and train that"
        )
    if zero.stage(accelerator):
        zero.whole_when_loaded()
    frozen = torch.bfloat16 if config.bf16 else torch.float32
    # Steps of 1e-6 would be rounded away in bfloat16: what is trained is in float32.
    model, processor = load(
        config.model if config.use_peft else source,
        dtype=frozen if config.use_peft else torch.float32,
    )
    check_prompts(model, config)
    copy = None
    if not config.use_peft:
        model.requires_grad_(True)
        if hasattr(model.config, "vision_config"):
            model.model.visual.requires_grad_(False)
        copy = load(config.model, dtype=frozen)[0]
    else:
        add_lora(model, config)
    for parameter in trainable(model):
        parameter.data = parameter.data.float()
    if config.use_peft and source != config.model:
        read_lora(model, source)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    parts = [None if part is None else Policy(part) for part in (model, copy)]
    if zero.stage(accelerator):
        policy = zero.shard(parts[0], adamw(parts[0], config), config.max_grad_norm, accelerator)
        reference = None if copy is None else zero.shard_reference(parts[1], accelerator)
        optimizer = policy.optimizer
    else:
        policy, reference = (
            None if part is None else distribute(part, sharded, accelerator) for part in parts
        )
        optimizer = adamw(policy, config)
    return policy, Reference(policy, reference), optimizer, processor


def launched_for_fsdp() -> bool:
    """Whether accelerate's launcher was configured for FSDP, which is then what `fsdp: true` is. Raises ValueError for settings
    of it that are not followed."""
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return False
    for name, value in (
        ("VERSION", "2"),
        ("CPU_RAM_EFFICIENT_LOADING", "false"),
        ("OFFLOAD_PARAMS", "false"),
    ):
        if (found := os.environ.get(f"FSDP_{name}", value).lower()) != value:
            raise ValueError(
                f"fsdp_{name.lower()}: {found} in the launcher's configuration; set it to {value}"
            )
    return True


def adamw(policy: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        trainable(policy), lr=config.learning_rate, weight_decay=config.weight_decay
    )


def add_lora(model, config: TrainConfig) -> None:
    """A fresh adapter on the projections of the text decoder; the rest stays frozen."""
    from peft import LoraConfig

    layers = (
        next(name for name, module in model.named_modules() if module is decoder(model))
        + ".layers."
    )
    targets = rf"{re.escape(layers)}\d+\..*\.({'|'.join(config.lora_target_modules)})"
    settings = {"r": config.lora_r, "lora_alpha": config.lora_alpha}
    torch.manual_seed(config.seed)  # the adapter starts from random numbers
    model.add_adapter(LoraConfig(**settings, target_modules=targets))
    model.peft_config["default"].base_model_name_or_path = config.model


def read_lora(model, folder: Path) -> None:
    """The adapter of a checkpoint as it was trained, in float32: `load` would round it to the dtype of its base."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def distribute(policy: Policy, fsdp: bool, accelerator: Accelerator) -> nn.Module:
    """On the process's device: in every process (DDP), or sharded over them layer by layer, whole nowhere but here."""
    if not fsdp:
        policy = policy.to(accelerator.device)
        return (
            accelerator.prepare_model(policy)
            if any(p.requires_grad for p in policy.parameters())
            else policy
        )
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    dtypes = {}
    if (
        accelerator.mixed_precision == "bf16"
    ):  # gradients are summed over the processes as they are kept
        dtypes = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
    for layer in decoder(policy.model).layers:  # each moves to the device when it is sharded
        fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(**dtypes))
    # Not the vision tower: a process without pictures would leave the others waiting.
    visual, ignored = getattr(policy.model.model, "visual", None), set()
    if visual is not None:
        ignored = set(visual.to(accelerator.device).parameters())
    whole = MixedPrecisionPolicy(**dtypes, cast_forward_inputs=False)
    return fully_shard(policy, mesh=mesh, mp_policy=whole, ignored_params=ignored)


def unwrap(policy: nn.Module) -> nn.Module:
    """The transformers model inside."""
    wrapped = isinstance(policy, DistributedDataParallel) or zero.is_engine(policy)
    return (policy.module if wrapped else policy).model


def in_step(policy: nn.Module) -> bool:
    """Whether each pass is one of all processes, because weights or gradients are sharded."""
    return isinstance(policy, FSDPModule) or zero.is_engine(policy)


@contextmanager
def gathered(policy: nn.Module) -> Iterator[None]:
    """For passes without gradients: what FSDP2 has sharded stays whole inside once it is gathered, or sampling would gather
    every layer again for each token; and is sharded again afterwards, which FSDP2 leaves to a backward pass for what lies
    outside the layers, and without which the optimizer's state cannot be read."""
    layers = list(decoder(unwrap(policy)).layers) if isinstance(policy, FSDPModule) else []
    for layer in layers:
        layer.set_reshard_after_forward(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True)
            layer.reshard()
        if layers:
            policy.reshard()


def trainable(policy: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


@contextmanager
def accumulate(policy: nn.Module, more: bool) -> Iterator[None]:
    """Gradients of the passes inside stay in their process while `more` are to come; but not those of a sharded model, which
    would lie there whole."""
    if zero.is_engine(policy):
        policy.set_gradient_accumulation_boundary(not more)
    if isinstance(policy, DistributedDataParallel) and more:
        with policy.no_sync():
            yield
    else:
        yield


def backward(policy: nn.Module, accelerator: Accelerator, loss: torch.Tensor) -> None:
    if zero.is_engine(policy):
        policy.backward(loss)
    else:
        accelerator.backward(loss)


def take_step(
    policy: nn.Module, optimizer, loss: torch.Tensor, limit: float
) -> tuple[torch.Tensor, bool]:
    """Clips by the gradient's norm over all processes and takes the step, unless `loss` or norm is not finite; the norm, and
    whether it was taken. The gradients are gone afterwards."""
    if zero.is_engine(policy):
        return zero.step(policy)
    norm = nn.utils.clip_grad_norm_(trainable(policy), limit)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    finite = bool(torch.isfinite(loss) and torch.isfinite(norm))
    if finite:
        optimizer.step()
    optimizer.zero_grad()
    return norm, finite


def whole_weights(policy: nn.Module) -> dict[str, torch.Tensor] | None:
    """Of a sharded model, gathered (every process must call it; the main one gets them); None: they are whole already."""
    if not in_step(policy):
        return None
    model = unwrap(policy)
    adapter = getattr(
        model, "_hf_peft_config_loaded", False
    )  # the base need not be gathered to save an adapter
    if zero.is_engine(policy):
        weights = zero.whole_weights(
            policy, trained=adapter, keep=torch.distributed.get_rank() == 0
        )
    else:
        options = StateDictOptions(
            full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapter
        )
        weights = get_model_state_dict(policy, options=options)
        weights = {name.removeprefix("model."): part for name, part in weights.items()}
    if model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        weights.pop("lm_head.weight", None)  # a second name
    return weights


def layout(policy: nn.Module) -> str | None:
    """How the optimizer's state lies in a checkpoint: None for whole, else what must be the same when it is read."""
    if not zero.is_engine(policy):
        return None
    return f"ZeRO-{policy.zero_optimization_stage()} over {torch.distributed.get_world_size()} processes"


def optimizer_state(policy: nn.Module, optimizer, shards: Path) -> dict:
    """What `restore_optimizer` takes, by the names of the parameters, so that FSDP2 reads what DDP wrote and the other way
    round; every process must call it. DeepSpeed writes its own to the folder `shards`."""
    if zero.is_engine(policy):
        zero.write_state(policy, shards)
        return {}
    return get_optimizer_state_dict(policy, optimizer, options=WHOLE)


def restore_optimizer(policy: nn.Module, optimizer, state: dict, shards: Path) -> None:
    if zero.is_engine(policy):
        zero.read_state(policy, shards)
    else:
        set_optimizer_state_dict(policy, optimizer, state, options=WHOLE)
