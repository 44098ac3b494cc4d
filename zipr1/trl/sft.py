"""SFTTrainer under sparse attention: prompts become sparse, completions are never dropped."""

from contextlib import ExitStack

import torch

from zipr1.common.errors import InputError
from zipr1.trl.block import SparseBlock, check_plain

FILLS = {"attention_mask": 0, "labels": -100, "mm_token_type_ids": 0, "token_type_ids": 0}


class SparseSFT(SparseBlock):
    """`class Mine(SparseSFT, SFTTrainer)`: each row under its own threshold.

    The prompt of a row is what stands before its first label; rows of prompts and completions, or
    chats with assistant_only_loss, have one. Logged are token_ratio and, with a sparsity_weight,
    frac_above_target.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        options = self.args
        check_plain({"packing": options.packing, "padding_free": options.padding_free})
        self.thresholds: tuple[float, ...] = ()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        pad = self.processing_class
        pad = getattr(pad, "tokenizer", pad).pad_token_id
        inputs, prompt_length = prompts_first(inputs, pad)
        count = len(inputs["input_ids"])
        self.thresholds = self.drawn_thresholds(count, 1)
        stack = self.block if self.block is not None else ExitStack()
        processes = self.accelerator.num_processes
        first = (self.batch * processes + self.accelerator.process_index) * count
        more = {"sample_numbers": list(range(first, first + count))}
        if self.changes_the_pass and torch.is_grad_enabled():
            more["replay"] = self.selection(model, inputs, prompt_length)
        trace = self.enter(stack, self.thresholds, prompt_length, **more)
        try:
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            self.note("token_ratio", trace.token_ratio)
            if trace.relaxed:
                everyone = torch.ones(count, device=trace.token_ratio.device)
                term = self.sparsity_term(trace, trace.token_ratio.detach(), everyone)
                # Where the loss is divided by the tokens of all steps of accumulation, nothing
                # divides it by their number.
                steps = (
                    1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
                )
                loss = (result[0] if return_outputs else result) + term / steps
                result = (loss, result[1]) if return_outputs else loss
        finally:
            if stack is not self.block:  # an evaluation: there is no backward pass
                stack.close()
        return result

    @property
    def changes_the_pass(self) -> bool:
        """Whether the pass with gradients is not the one that selects: a choice gradient includes
        some dropped tokens in part under scope "layer"."""
        settings = self.sparse_settings
        learns = settings.sparsity_weight and settings.choice_gradient
        return bool(learns and settings.scope == "layer")

    @torch.no_grad()
    def selection(self, model, inputs: dict, prompt_length: int) -> list[torch.Tensor]:
        """The kept tokens of each layer, from a pass of its own."""
        given = {name: value for name, value in inputs.items() if name != "labels"}
        with ExitStack() as stack:
            trace = self.enter(stack, self.thresholds, prompt_length)
            with self.compute_loss_context_manager():
                model(**given | {"use_cache": False, "logits_to_keep": 1})
            return list(trace.kept)


def prompts_first(inputs: dict, pad: int) -> tuple[dict, int]:
    """The batch with all prompts padded on the left to one length, and all completions after them
    padded on the right; and that length. Raises InputError for rows without a prompt."""
    if "attention_mask" not in inputs or "position_ids" in inputs:
        raise InputError(
            "packed rows have no prompts of their own: set packing and padding_free off"
        )
    mask, labels = inputs["attention_mask"].bool(), inputs["labels"] != -100
    answer = (labels & mask).long().cumsum(-1).gt(0)  # from the first label on
    prompt = mask & ~answer
    short, most = prompt.sum(-1), int(prompt.sum(-1).max())
    if int(short.min()) == 0:
        raise InputError(
            "a row has labels from its first token on, so no prompt could be sparse: give rows of "
            "prompt and completion, or set assistant_only_loss"
        )
    after = (mask & answer).sum(-1)
    width, device = most + int(after.max()), mask.device
    column = torch.arange(width, device=device)
    # The real tokens of a row keep their order: its k-th goes to column most - prompt + k.
    rank = column - (most - short)[:, None]  # (B, width)
    real = (rank >= 0) & (rank < (short + after)[:, None])
    order = torch.argsort((~mask).long(), dim=-1, stable=True)  # real tokens first
    source = order.gather(1, rank.clamp(0, mask.shape[1] - 1))
    moved = dict(inputs)
    for name, fill in (FILLS | {"input_ids": pad}).items():
        if name in inputs:
            moved[name] = inputs[name].gather(1, source).masked_fill(~real, fill)
    return moved, most
