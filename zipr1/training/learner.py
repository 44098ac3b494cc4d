"""The model in training: owns policy, reference and optimizer, and how the processes hold them."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy as copy_of
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from zipr1.common.errors import InputError
from zipr1.models.adapters import MERGE, is_adapter
from zipr1.models.encode import check_trainable
from zipr1.models.families import decoder
from zipr1.models.loading import load
from zipr1.models.saving import save
from zipr1.training.config import TrainConfig
from zipr1.training.given import Given
from zipr1.training.questions import check_prompts
from zipr1.training.sharding import Fsdp2, Policy, Replicated, launched_for_fsdp, trainable
from zipr1.training.zero import Zero, launched_stage


class Learner:
    """A policy, its frozen dense reference and its optimizer.

    learner(work, ...) is work(model, ...) on the policy, learner.reference(work, ...) on the
    reference: a second copy, or with LoRA the policy itself without its adapter.
    learner.reference_head is its language head, for use within a pass of the policy.
    """

    def __init__(
        self,
        model: nn.Module,
        copy: nn.Module | None,
        processor,
        sharding: Replicated,
        adamw: Callable[[nn.Module], torch.optim.Optimizer],
        max_grad_norm: float,
    ):
        self.processor, self.sharding, self.max_grad_norm = processor, sharding, max_grad_norm
        self.accelerator, self.collective = sharding.accelerator, sharding.collective
        self.layout = sharding.layout
        self.policy, self.optimizer = sharding.prepare(Policy(model), adamw, max_grad_norm)
        self.model = sharding.unwrap(self.policy)
        self.copy, self.reference_head = None, self.model.lm_head
        if copy is not None:
            self.reference_head = copy.lm_head
            if sharding.shards_weights:  # a sharded head is whole in a pass of the reference only
                self.reference_head = copy_of(copy.lm_head).to(self.accelerator.device)
            self.copy = sharding.prepare_reference(Policy(copy))
        self.adapter = getattr(self.model, "_hf_peft_config_loaded", False)

    def __call__(self, work: Callable, *args, **kwargs):
        return self.policy(work, *args, **kwargs)

    @torch.no_grad()
    def reference(self, work: Callable, *args, **kwargs):
        if self.copy is not None:
            with self.sharding.gathered(self.copy):
                return self.copy(work, *args, **kwargs)
        self.model.disable_adapters()
        try:
            with self.gathered():
                return self.policy(work, *args, **kwargs)
        finally:
            self.model.enable_adapters()

    def gathered(self) -> AbstractContextManager:
        """For several passes without gradients: sharded weights are gathered once."""
        return self.sharding.gathered(self.policy)

    def accumulate(self, more: bool) -> AbstractContextManager:
        """For a pass with gradients, after which `more` come before the optimizer's step."""
        return self.sharding.accumulate(self.policy, more)

    def backward(self, loss: torch.Tensor) -> None:
        self.sharding.backward(self.policy, loss)

    def step(self, loss: float) -> tuple[torch.Tensor, bool]:
        """Clips and takes the optimizer's step, unless loss or gradient is not finite: (the norm of
        the gradient over all processes, whether the step was taken)."""
        return self.sharding.step(self.policy, self.optimizer, loss, self.max_grad_norm)

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def weights_are_finite(self) -> bool:
        """Whether all trained weights are, in all processes; every process must call it."""
        finite = all(bool(part.isfinite().all()) for part in self.sharding.own_parts(self.policy))
        finite = torch.tensor([int(finite)], device=self.accelerator.device)
        return bool(self.accelerator.gather(finite).all())

    def whole_weights(self) -> dict[str, torch.Tensor] | None:
        """What `save` writes where weights are sharded; every process must call it."""
        weights = self.sharding.whole_weights(self.policy, self.adapter)
        model = self.model
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        if weights and tied:
            weights.pop("lm_head.weight", None)  # a second name
        return weights

    def save(self, folder: Path, settings: dict, weights: dict[str, torch.Tensor] | None) -> None:
        """Writes a transformers folder, or that of an adapter, in the main process."""
        save(self.model, self.processor, folder, settings, weights)

    def optimizer_state(self, shards: Path) -> dict:
        """For a checkpoint; every process must call it. DeepSpeed writes to the folder `shards`."""
        return self.sharding.optimizer_state(self.policy, self.optimizer, shards)

    def restore(self, state: dict, shards: Path) -> None:
        """Reads what `optimizer_state` gave."""
        self.sharding.restore(self.policy, self.optimizer, state, shards)


def load_learner(
    config: TrainConfig, source: str | Path, accelerator: Accelerator, given: Given | None = None
) -> Learner:
    """The learner from `source`, the model or the checkpoint of it to continue from. A model that
    is given already is not loaded by its name.

    The vision tower is frozen: an image is encoded once, and what becomes sparse is the decoder's
    attention.
    """
    given = given or Given()
    if given.model is None and is_adapter(config.model):
        raise InputError(f"{config.model}: an adapter; {MERGE}, and train that folder")
    sharding = sharding_of(config.fsdp, accelerator)
    frozen = torch.bfloat16 if config.bf16 else torch.float32
    # Steps of 1e-6 would be rounded away in bfloat16: what is trained is in float32.
    name, dtype = (config.model, frozen) if config.use_peft else (source, torch.float32)
    if given.model is not None and name == config.model:
        if config.use_peft:
            check_same(given.model, config.model)
        model, processor = given.model.to(dtype), given.processor
    else:
        model, processor = load(name, dtype=dtype)
    check_trainable(model)
    check_prompts(model, config)
    copy = None
    if config.use_peft:
        add_lora(model, config)
    else:
        copy = reference_copy(config.model, frozen, given.model)
        for part in (decoder(model), model.get_output_embeddings()):
            part.requires_grad_(True)
    for parameter in trainable(model):
        parameter.data = parameter.data.float()
    if config.use_peft and source != config.model:
        read_lora(model, source)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    adamw = partial(new_adamw, rate=config.learning_rate, weight_decay=config.weight_decay)
    return Learner(model, copy, processor, sharding, adamw, config.max_grad_norm)


def check_same(model: nn.Module, name: str) -> None:
    """Raises InputError unless the weights are those of the named model, which is loaded for it:
    an adapter names its base, and would be loaded onto other weights."""
    named = dict(load(name, dtype=model.dtype)[0].named_parameters())
    own = dict(model.named_parameters())
    if changed := [
        key
        for key in own | named
        if key not in own
        or key not in named
        or not torch.equal(own[key].to(named[key]), named[key])
    ]:
        raise InputError(
            f"model: its weights are not those of {name} ({changed[0]} differs), which the adapter "
            "would name as its base; save the model first, then train it by its folder"
        )


def reference_copy(name: str, dtype: torch.dtype, given: nn.Module | None) -> nn.Module:
    """The frozen dense reference: loaded, or a copy of the model that is given."""
    if given is None:
        return load(name, dtype=dtype)[0]
    return copy_of(given).requires_grad_(False).to(dtype).eval()


def sharding_of(fsdp: bool, accelerator: Accelerator) -> Replicated:
    """By the settings, or by how accelerate's launcher was configured."""
    fsdp = fsdp or launched_for_fsdp()
    if fsdp and not torch.distributed.is_initialized():
        raise InputError(
            "fsdp: needs a launcher: torchrun --nproc_per_node N -m zipr1.cli train ..."
        )
    if stage := launched_stage(accelerator):
        return Zero(accelerator, stage)
    return (Fsdp2 if fsdp else Replicated)(accelerator)


def new_adamw(policy: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(trainable(policy), lr=rate, weight_decay=weight_decay)


def add_lora(model, config: TrainConfig) -> None:
    """A fresh adapter on the projections of the text decoder; the rest stays frozen. Raises
    InputError for a projection that its layers do not have."""
    from peft import LoraConfig

    layers = [
        name.split(".")[-1]
        for name, module in decoder(model).layers.named_modules()
        if isinstance(module, nn.Linear)
    ]
    if absent := [name for name in config.lora_target_modules if name not in layers]:
        raise InputError(
            f"lora_target_modules={','.join(config.lora_target_modules)}: the layers of a "
            f"{model.config.model_type} model have no {', '.join(absent)}; choose among "
            f"{','.join(dict.fromkeys(layers))}"
        )
    name = next(name for name, module in model.named_modules() if module is decoder(model))
    modules = "|".join(config.lora_target_modules)
    targets = rf"{re.escape(name)}\.layers\.\d+\..*\.({modules})"
    torch.manual_seed(config.seed)  # the adapter starts from random numbers
    model.add_adapter(
        LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, target_modules=targets)
    )
    model.peft_config["default"].base_model_name_or_path = config.model


def read_lora(model, folder: Path) -> None:
    """The adapter of a checkpoint as it was trained, in float32: `load` would round it to the dtype
    of its base."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
