"""What a call of the model tells about its prompt, beyond what reaches the decoder.

Trainers pass prompt and completion in one forward pass. Which columns are the prompt follows from
the labels, or from the number of logits that are asked for.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from zipr1.common.errors import InputError
from zipr1.sparsity.media import check_continued, hashes
from zipr1.sparsity.unsupported import columns_kept

IGNORED = -100  # the label of tokens without a loss, of torch and transformers


@dataclass
class Call:
    """A running call of forward(): its arguments, and the columns of its prompt."""

    arguments: dict
    prompt: int | list[int] | None


@dataclass
class Generation:
    """A running call of generate(): its arguments, its passes so far, the columns of its prompt."""

    arguments: dict
    passes: int = 0
    prompt: int | list[int] = 0


class Calls:
    """The running calls of a model: forward() and generate(), each in its own thread.

    classifier: whether labels are no tokens, and every token belongs to the prompt.
    """

    def __init__(self, classifier: bool = False):
        self.local, self.classifier = threading.local(), classifier

    @contextmanager
    def inside(self, name: str, value) -> Iterator[None]:
        """Sets what this thread is inside of, and what it was inside of before."""
        before = getattr(self.local, name, None)
        setattr(self.local, name, value)
        try:
            yield
        finally:
            setattr(self.local, name, before)

    def call(self, function: Callable, args: tuple, kwargs: dict) -> Call:
        """A call of `function`, with what its arguments tell of the prompt."""
        arguments = named(function, args, kwargs)
        return Call(arguments, None if self.classifier else prompt_of(arguments))

    def forward(self, function: Callable, args: tuple, kwargs: dict):
        """Around a call of the model's forward function."""
        return self.inside("call", self.call(function, args, kwargs))

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook of the model, whose forward function a trainer may have replaced."""
        self.local.call = self.call(module.forward, args, kwargs)

    def after(self, module: nn.Module, args: tuple, output) -> None:
        """Forward hook of the model."""
        self.local.call = None

    def generate(self, function: Callable, args: tuple, kwargs: dict):
        """Around a call of the model's generate function.

        Raises InputError for a prefill in chunks, and for a KV cache of another prompt.
        """
        given = named(function, args, kwargs)
        config = given.get("generation_config") or function.__self__.generation_config
        chunk = given.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if chunk is not None:
            raise InputError(
                f"prefill_chunk_size={chunk}: tokens are selected among the whole prompt, which "
                "must be one forward pass; leave it out"
            )
        guidance = given.get("guidance_scale", getattr(config, "guidance_scale", None))
        if guidance not in (None, 1):
            raise InputError(
                f"guidance_scale={guidance}: its second prompt would be selected and recorded as "
                "the first; leave it out"
            )
        if given.get("assistant_early_exit", getattr(config, "assistant_early_exit", None)):
            raise InputError(
                "assistant_early_exit: drafts of the model's own first layers would write to the "
                "KV cache that has dropped tokens; use prompt_lookup_num_tokens, or an assistant "
                "outside of a block"
            )
        check_continued(given)
        return self.inside("generation", Generation(given))

    @property
    def arguments(self) -> dict:
        """Those of the running call of forward(); none where the decoder is called directly."""
        call = getattr(self.local, "call", None)
        return {} if call is None else call.arguments

    @property
    def generating(self) -> bool:
        """Whether generate() has made its first pass, so that all that follows is its own."""
        generation = getattr(self.local, "generation", None)
        return generation is not None and generation.passes > 1

    def padding(self, arguments: dict) -> torch.Tensor | None:
        """(B, tokens seen) the padding mask of a later turn; None where none was given.

        arguments: of the decoder, which may have got other masks, made from it.
        """
        generation = getattr(self.local, "generation", None)
        given = {} if generation is None else generation.arguments
        for one in (given, self.arguments, arguments):
            mask = one.get("attention_mask")
            if isinstance(mask, torch.Tensor) and mask.ndim == 2:
                return mask
        return None

    @property
    def media(self) -> dict[str, torch.Tensor]:
        """Hashes of the images and videos; generate() encodes them before it calls forward()."""
        generation = getattr(self.local, "generation", None)
        return hashes(self.arguments if generation is None else generation.arguments)

    def prompt_length(
        self, length: int, past: int, cached: bool, training: bool
    ) -> int | list[int] | None:
        """Columns of the prompt, of all rows or of each, in a pass of `length`; None for all.

        past: tokens seen before. Raises InputError for a pass for a loss that does not tell them.
        """
        call = getattr(self.local, "call", None)
        prompt = None if call is None else call.prompt
        generation = getattr(self.local, "generation", None)
        if generation is not None:
            generation.passes += 1
            if generation.passes == 1:
                generation.prompt = prompt or length
            elif past:  # generated tokens, or drafts of them
                return 0
            elif not cached:  # generate(use_cache=False): the prompt again, and what was generated
                return generation.prompt
        # transformers' Trainer counts the labels, which it keeps for a loss of its own.
        training |= self.arguments.get("num_items_in_batch") is not None
        if prompt is None and training and not past and not self.classifier:
            raise InputError(
                "a pass for a loss (training, or num_items_in_batch) inside zipr1.sparse does not tell "
                "which of its tokens are the prompt: pass labels (-100 on the prompt) or logits_to_keep; make the trainer "
                "before the block, if it adds an adapter: `with zipr1.sparse(trainer.model, "
                "rule)`; or give zipr1.sparse(..., prompt_length=...), a number or one per row"
            )
        return prompt


def named(function: Callable, args: tuple, kwargs: dict) -> dict:
    """The arguments of a call by their names."""
    return dict(zip(inspect.signature(function).parameters, args, strict=False)) | kwargs


def prompt_of(arguments: dict) -> int | list[int] | None:
    """Columns of the prompt, of all rows or of each, from the arguments of a forward function.

    The first column whose label is not -100; or all up to the first whose logits are asked, which
    predict the first token of the completion. None if neither is given, or the last logits only.
    """
    for name, shift in (("labels", 0), ("shift_labels", 1)):
        if (labels := arguments.get(name)) is not None and labels.ndim == 2:
            return first_labels(labels, shift)
    keep = arguments.get("logits_to_keep")
    if keep is None or (isinstance(keep, int) and keep == 0):
        return None
    inputs = arguments.get("input_ids")
    inputs = arguments.get("inputs_embeds") if inputs is None else inputs
    columns = columns_kept(keep, inputs.shape[1]).tolist()
    return min(columns) + 1 if columns else None


def first_labels(labels: torch.Tensor, shift: int) -> int | list[int]:
    """The column of the first label of each row (B, L), plus `shift`; L for a row without one."""
    given = labels != IGNORED
    columns = torch.where(given.any(-1), given.int().argmax(-1) + shift, labels.shape[1])
    columns = columns.tolist()
    return columns[0] if len(set(columns)) == 1 else columns
