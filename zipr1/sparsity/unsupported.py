"""What a sparse pass cannot do, refused before it is done otherwise in silence."""

from collections.abc import Iterable

import torch
from torch import nn

from zipr1.common.errors import InputError

BY_ROW = {  # what PEFT gives its layers by hooks, and what needs it
    "alora_offsets": "an activated LoRA (alora_invocation_tokens) adapts tokens by their position",
    "adapter_names": "adapter_names gives each row of the batch its own adapter",
}


def check_adapters(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Raises InputError for adapters of PEFT that ask for whole rows, of which scope="layer" runs
    the kept tokens alone. layers: the sparse ones of the model."""
    for layer in layers:
        if not hasattr(layer.self_attn, "layer_idx"):
            raise InputError(
                f"scope='layer': {type(layer.self_attn).__name__} stands in place of a layer's "
                "attention module, such as PEFT's AdaptionPromptConfig sets it; use "
                "scope='attention' or 'keys'"
            )
        if names := {name for part in layer.modules() for name in given_by_hooks(part).values()}:
            remove_given(model)
            raise InputError(
                f"scope='layer': {BY_ROW[max(names)]}, and a layer runs on the kept tokens alone; "
                "use scope='attention' or 'keys'"
            )


def remove_given(model: nn.Module) -> None:
    """Removes these hooks, which PEFT leaves to later calls when one ends with an exception."""
    for part in model.modules():
        for number in given_by_hooks(part):
            del part._forward_pre_hooks[number]


def given_by_hooks(module: nn.Module) -> dict[int, str]:
    """The pre-hooks by which PEFT gives a module what needs whole rows: number -> its name."""
    hooks = module._forward_pre_hooks.items()
    found = {number: BY_ROW.keys() & getattr(hook, "keywords", {}) for number, hook in hooks}
    return {number: names.pop() for number, names in found.items() if names}


def check_packed(arguments: dict) -> None:
    """Raises InputError for a prefill of several sequences in one row, as padding-free trainers make
    it. arguments: of the decoder."""
    lengths, positions = arguments.get("cu_seq_lens_q"), arguments.get("position_ids")
    packed = lengths is not None and len(lengths) > 2
    if positions is not None and arguments.get("attention_mask") is None:
        falls = positions.diff() < 0
        while falls.ndim > 2:  # Qwen-VL: within a sequence, never in time, height and width at once
            falls = falls.all(0)
        packed |= bool(falls.any())
    if packed:
        raise InputError(
            "position_ids or cu_seq_lens_q put several sequences into one row: packed sequences "
            "are not supported by sparse attention; pad them and pass a 2-D padding mask "
            "(padding_free=False, packing=False)"
        )


def is_classifier(model: nn.Module) -> bool:
    """Whether the labels of a model are no tokens, so that they say nothing about its prompt.

    A decoder without a head is no classifier: its caller may compute logits.
    """
    return model.get_output_embeddings() is None and model.base_model is not model


def columns_kept(keep: int | slice | torch.Tensor, length: int) -> torch.Tensor:
    """The columns, of `length`, whose logits `logits_to_keep` asks for; as transformers reads it."""
    if isinstance(keep, int):
        keep = slice(-keep, None)
    return torch.arange(length)[keep.cpu() if isinstance(keep, torch.Tensor) else keep]
