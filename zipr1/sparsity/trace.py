"""What a sparse pass records: the kept tokens of each layer, and the token ratio."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from transformers import Cache

from zipr1.common.errors import InputError, RunError

if TYPE_CHECKING:
    from PIL.Image import Image

    from zipr1.sparsity.drawing import Media

SHOWN = 8  # prompts of a batch in a repr


@dataclass(repr=False)
class Trace:
    """The last prefill inside a block of `zipr1.sparse`; lists have one entry per sparse layer.

    layers: indices of the decoder's layers that are sparse, in order: those with full attention.
        Layers with linear attention or a sliding window stay dense and have no entry.
    kept: (B, L) bool over the prompt's columns, False on padding.
    rows: (B, L) bool, the queries that are computed; empty where they are those of `kept`.
    relaxed: (B,) the differentiable count, if the pass records one.
    flipped: (B,) fraction of a replayed choice that a fresh choice would not have made.
    lengths: (B,) prompt tokens without padding.
    cache: the KV cache that this prefill filled; later turns on another cache are not recorded.
    """

    layers: tuple[int, ...] = ()
    kept: list[torch.Tensor] = field(default_factory=list)
    rows: list[torch.Tensor] = field(default_factory=list)
    relaxed: list[torch.Tensor] = field(default_factory=list)
    flipped: list[torch.Tensor] = field(default_factory=list)
    lengths: torch.Tensor | None = None
    cache: weakref.ref | None = None

    def clear(self, cache: Cache | None) -> None:
        """Begins the record of a prefill that fills `cache`."""
        self.kept, self.rows, self.relaxed, self.flipped = [], [], [], []
        self.cache = None if cache is None else weakref.ref(cache)

    def __getstate__(self) -> dict:
        """A copy, or a saved trace, knows no cache."""
        return vars(self) | {"cache": None}

    @property
    def layer_ratios(self) -> torch.Tensor:
        """(B, sparse layers) fraction of the prompt that each of them kept."""
        return self._ratios(self.kept)

    @property
    def token_ratio(self) -> torch.Tensor:
        """(B,) mean over the sparse layers of |T| / l, measured: the fraction of keys that stay.

        Layers that stay dense (see `layers`) do not count.
        """
        return self.layer_ratios.mean(-1)

    @property
    def query_ratio(self) -> torch.Tensor:
        """(B,) mean over the sparse layers of the fraction of queries that are computed."""
        return self._ratios(self.rows or self.kept).mean(-1)

    @property
    def relaxed_ratio(self) -> torch.Tensor:
        """(B,) the differentiable count as a fraction of the prompt (`budget.relaxed_count`)."""
        self._check()
        if not self.relaxed:
            raise RunError(
                "relaxed_ratio was not recorded: give zipr1.sparse a "
                "TrainingPass(relax=zipr1.relaxed_count)"
            )
        counts = torch.stack([count.to(self.lengths.device) for count in self.relaxed], dim=-1)
        return counts.mean(-1) / self.lengths

    def draw(
        self,
        media: "Media | Sequence[Media]",
        inputs,
        processor,
        *,
        row: int = 0,
        layer: int | None = None,
        caption: str = "",
    ) -> "Image":
        """The kept tokens over the images and videos of the prompt number `row` of a batch.

        media: an image, or a list of images and videos in the order of the prompt, a video as the
            list of its frames. inputs: what the processor gave for the batch.
        layer: of one of `layers`; None: each cell as bright as the fraction of layers that kept it.

        Raises InputError for other media than those of the prompt, and for models that do not say
        where their visual tokens lie.
        """
        from PIL import Image

        from zipr1.common.overlay import kept_pages
        from zipr1.sparsity.drawing import tiles_of

        self._check()
        media = [media] if isinstance(media, Image.Image) else list(media)
        ratios = self.layer_ratios[row].tolist()
        if layer is not None and layer not in self.layers:
            known = ", ".join(map(str, self.layers))
            raise InputError(f"layer={layer}: the sparse layers of the model are {known}")
        tiles = tiles_of(self.kept, media, inputs, processor, row)
        pages = kept_pages(tiles, ratios, caption, self.layers)
        return next(islice(pages, 0 if layer is None else self.layers.index(layer) + 1, None))

    def __repr__(self) -> str:
        if not self.kept:
            return "Trace(nothing recorded)"
        ratios = ", ".join(f"{ratio:.3f}" for ratio in self.token_ratio.tolist()[:SHOWN])
        more = ", ..." if len(self.lengths) > SHOWN else ""
        lengths = ", ".join(map(str, self.lengths.tolist()[:SHOWN]))
        return (
            f"Trace(token_ratio=[{ratios}{more}], layers={len(self.kept)}, "
            f"prompt_tokens=[{lengths}{more}])"
        )

    def _repr_html_(self) -> str:
        """A notebook shows this."""
        from zipr1.sparsity.drawing import html_of

        return html_of(self.layer_ratios, self.lengths, self.layers) if self.kept else repr(self)

    def _ratios(self, tokens: list[torch.Tensor]) -> torch.Tensor:
        """(B, sparse layers) `tokens` of each layer, (B, L) bool, as a fraction of the prompt."""
        self._check()
        device = self.lengths.device  # the layers may lie on several
        counts = torch.stack([chosen.sum(-1).to(device) for chosen in tokens], dim=-1)
        return counts / self.lengths[:, None]

    def _check(self) -> None:
        if not self.kept:
            raise RunError(
                "nothing was recorded: call the model inside `with zipr1.sparse(...)` first"
            )


def record(entries: list, layer: int, entry: torch.Tensor) -> None:
    """Adds a layer's entry; a layer that gradient checkpointing recomputes has one already."""
    if layer == len(entries):
        entries.append(entry)
