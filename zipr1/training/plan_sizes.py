"""The sizes that the plan of a step is computed from: of the model, the data and the processes."""

from dataclasses import dataclass

import torch
from torch import nn

from zipr1.models.families import auto_class, decoder, vision_parts
from zipr1.models.flops import Shape
from zipr1.models.loading import load_config
from zipr1.models.shapes import shape_config
from zipr1.training.plan_config import PlanConfig


@dataclass(frozen=True)
class Sizes:
    """What the arithmetic of `plan` shares."""

    config: PlanConfig
    shape: Shape  # of the text decoder
    vocabulary: int
    positions: int  # the longest prompt and completion that the model is made for
    parameters: int
    visual: int  # parameters of the vision tower, which is whole in every process
    adapter: int  # parameters of LoRA
    prompt: int
    ratio: float
    processes: int

    @property
    def size(self) -> int:
        """Bytes of a number of the reference, and of what is computed."""
        return 2 if self.config.bf16 else 4

    @property
    def shards(self) -> int:
        return self.processes if self.config.fsdp else 1

    @property
    def completion(self) -> int:
        return self.config.max_completion_length

    @property
    def length(self) -> int:
        return self.prompt + self.completion

    @property
    def rollouts(self) -> int:
        """Of a step, in all processes."""
        return self.config.prompts_per_step * self.config.num_generations

    @property
    def rows(self) -> int:
        """Rollouts of the largest pass with gradients, in one process."""
        rows = self.rollouts // (self.config.mini_batches * self.processes)
        budget = self.config.max_tokens_per_batch
        return max(1, min(rows, budget // self.length)) if budget else rows

    @property
    def all_rows_learn(self) -> bool:
        """Whether the pass with gradients computes all tokens, for the choice gradient."""
        objective = self.config.objective
        return bool(objective.sparsity_weight and objective.choice_gradient)

    def layer_bytes(self, kept: float) -> float:
        """Activations of one layer and sample, of whose tokens a fraction reaches the MLP."""
        attention = self.shape.head * (2 * self.shape.heads + 2 * self.shape.kv_heads)
        return (
            self.length
            * self.size
            * (attention + self.shape.hidden * 6 + kept * 3 * self.shape.mlp)
        )

    @property
    def mlp_ratio(self) -> float:
        """The fraction of tokens that reach the MLP in a pass without gradients."""
        return self.ratio if self.config.scope == "layer" else 1.0


def sizes_of(
    config: PlanConfig, prompt: int, ratio: float, processes: int, shape: str | None
) -> Sizes:
    """Counts the weights of the model, without loading them."""
    settings = shape_config(shape) if shape else load_config(config.model)
    with torch.device("meta"):
        model = auto_class(settings).from_config(settings)
    model.tie_weights()
    vision = [weight for part in vision_parts(model).values() for weight in part.parameters()]
    text = settings.get_text_config()
    projections = [
        module
        for name, module in decoder(model).layers.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in config.lora_target_modules
    ]
    return Sizes(
        config,
        Shape.of(text),
        text.vocab_size,
        text.max_position_embeddings,
        parameters=sum(weight.numel() for weight in model.parameters()),
        visual=sum(weight.numel() for weight in vision),
        adapter=config.lora_r * sum(one.in_features + one.out_features for one in projections),
        prompt=prompt,
        ratio=ratio,
        processes=processes,
    )
