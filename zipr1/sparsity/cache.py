"""A KV cache layer that stores the kept tokens and counts the tokens seen."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from zipr1.common.errors import InputError, RunError


class KeptLayer(DynamicLayer):
    """Keys and values of the kept prompt tokens and of every token after the prompt.

    keys, values: (B, Hkv, K, D), K tokens stored.
    valid: (B, K) bool, False where a sample kept fewer tokens than another one of the batch.
    seen: tokens seen. It is the sequence length that transformers is told, so that positions and
        masks continue as if nothing had been dropped.
    ragged: whether `valid` may hold a False, known without a device synchronisation.
    evicted: whether tokens were dropped, or moved to align a ragged batch.
    removable: tokens at the end that `crop` may remove: those after the prompt.
    appended: tokens at the end that came after the prefill.
    open: set by `zipr1.sparse` before each pass; stock attention would take invalid places for
        tokens.
    """

    is_croppable = True

    def __init__(self):
        super().__init__()
        self.seen = self.removable = self.appended = 0
        self.valid: torch.Tensor | None = None
        self.ragged = self.evicted = False
        self.open = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Appends all new tokens; `evict` then drops prompt tokens that were not selected."""
        if self.evicted and not self.open:
            raise RunError(
                "this KV cache has dropped tokens: continue it inside `with zipr1.sparse(...)`"
            )
        self.open = False
        keys, values = super().update(key_states, value_states)
        batch, _, length, _ = key_states.shape
        new = torch.ones(batch, length, dtype=torch.bool, device=key_states.device)
        self.valid = new if self.seen == 0 else torch.cat([self.valid, new], dim=-1)
        self.seen, self.removable = self.seen + length, self.removable + length
        self.appended += length
        return keys, values

    def evict(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        valid: torch.Tensor,
        ragged: bool,
        completions: int,
    ) -> None:
        """Replaces what is stored by the kept tokens (B, Hkv, K, D) and their validity (B, K).

        completions: tokens after the prompt, at the end of every row.
        """
        self.keys, self.values, self.valid = keys, values, valid
        self.ragged, self.evicted = ragged, True
        self.removable = 0 if ragged else completions
        self.appended = 0

    def hide(self, padding: torch.Tensor) -> None:
        """padding: (B, appended) bool, False on tokens that later ones do not see, such as what
        generate() adds to a row that has ended."""
        self.valid[:, -self.appended :] &= padding.to(self.valid.device)
        self.ragged = True

    def fill(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        valid: torch.Tensor,
        length: int,
        ragged: bool,
        completions: int,
    ) -> None:
        """Stores the kept tokens, as `evict` does, of `length` tokens that no update() has seen."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.seen, self.open = length, False
        self.evict(keys, values, valid, ragged, completions)

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def reset(self) -> None:
        super().reset()
        self.seen = self.removable = self.appended = 0
        self.valid, self.ragged, self.evicted, self.open = None, False, False, True

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last -tokens_to_remove tokens, as assisted decoding does with drafts.

        Up to transformers 5.19 a positive number is the length to keep. Raises RunError for tokens
        of the prompt, some of which are gone.
        """
        keep = tokens_to_remove > 0
        count = max(self.seen - tokens_to_remove, 0) if keep else -tokens_to_remove
        if count > self.removable:
            raise RunError(
                f"a sparse KV cache cannot be cropped by {count} tokens, {self.removable} were "
                "generated: tokens of the prompt were dropped, and the others moved"
            )
        if count:
            super().crop(-count)
            self.valid = self.valid[:, :-count]
            self.seen, self.removable = self.seen - count, self.removable - count
            self.appended = max(self.appended - count, 0)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        super().reorder_cache(beam_idx)
        self.valid = self.valid.index_select(0, beam_idx.to(self.valid.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.valid = self.valid.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.valid = self.valid[indices]


def layer_of(cache: DynamicCache, number: int) -> KeptLayer:
    """The layer of a cache, which makes its layers at their first update."""
    while len(cache.layers) <= number:
        cache.layers.append(cache.layer_class_to_replicate())
    return cache.layers[number]


def hide_padding(
    cache: DynamicCache, layers: Sequence[int], mask: torch.Tensor | None, past: int
) -> None:
    """Hides the tokens after the prefill that `mask` (B, at least `past`) has as padding.

    generate() pads the rows that end first; a later turn's mask says where.
    """
    appended = cache.layers[layers[0]].appended
    if mask is None or mask.shape[1] < past or not appended:
        return
    padding = mask[:, past - appended : past].bool()
    if not bool(padding.all()):
        for number in layers:
            cache.layers[number].hide(padding)


def make_sparse(cache: DynamicCache, layers: Sequence[int]) -> None:
    """Turns unused layers of a cache, those number `layers`, into layers that drop tokens.

    The others, of linear attention or sliding windows, stay what they are.

    Raises InputError for a cache of another kind, and for one that dense attention has filled.
    """
    if type(cache) is not DynamicCache or cache.offloading:
        raise InputError(
            f"{type(cache).__name__}: sparse attention needs the default DynamicCache; "
            "leave out cache_implementation"
        )
    cache.layer_class_to_replicate = KeptLayer
    for i, layer in enumerate(cache.layers):
        if isinstance(layer, KeptLayer):
            layer.open = True
            continue
        if i not in layers:
            continue
        if type(layer) is not DynamicLayer:
            raise InputError(
                f"layer {i} of the cache is a {type(layer).__name__}: "
                "only full-attention layers can be sparse"
            )
        if layer.get_seq_length() > 0:
            raise InputError(
                "the KV cache was filled by dense attention: "
                "enter zipr1.sparse before the prompt is read. Prefix tuning (PEFT), whose learned "
                "keys and values fill the cache, is not supported"
            )
        cache.layers[i] = KeptLayer()
