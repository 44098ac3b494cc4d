"""Times the decoder over a whole prompt, with its KV cache."""

from functools import partial

import torch

from zipr1.bench.config import BenchConfig
from zipr1.bench.rows import rules_of, timed, with_bound
from zipr1.common.clock import paired, peak_bytes
from zipr1.common.scope import SCOPES
from zipr1.models.families import decoder
from zipr1.models.flops import Shape, layer_flops, prefill_bound
from zipr1.models.versions import cache_of
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import Rule, TopK


class Prefill:
    """A random prompt that the decoder processes; bytes of the KV cache that it left."""

    def __init__(self, model, tokens: int):
        self.model, self.text, self.tokens = model, decoder(model), tokens
        self.shape = Shape.of(self.text.config)
        size = (1, tokens, self.shape.hidden)
        self.states = torch.randn(size, device=model.device, dtype=model.dtype)
        self.positions = torch.arange(tokens, device=model.device).expand(3, 1, -1)
        self.sizes: dict[str, int] = {}

    def run(self, name: str, length: int) -> None:
        out = self.text(
            inputs_embeds=self.states[:, :length],
            position_ids=self.positions[..., :length],
            use_cache=True,
        )
        stored = sum(2 * layer.keys.numel() for layer in cache_of(out).layers)
        self.sizes[f"{name}_bytes"] = stored * self.model.dtype.itemsize

    def dense(self) -> None:
        self.run("dense", self.tokens)

    def sparse(self) -> None:
        self.run("sparse", self.tokens)


def prefill_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """A row for each ratio, rule and scope, and one for a prompt below `min_tokens`."""
    prefill, rows = Prefill(model, tokens), []
    for ratio in ratios:
        for name, rule in rules_of(config, ratio):
            if rule is None:
                rows.append(shorter_row(prefill, name, ratio, config.repeats))
            else:
                rows += [
                    sparse_row(prefill, name, rule, ratio, scope, config.repeats)
                    for scope in SCOPES
                ]
    # The overhead of zipr1 where a prompt is too short to be sparse.
    block = partial(sparse, model, TopK(min(ratios)), min_tokens=tokens + 1)
    times = paired(prefill.dense, prefill.sparse, config.repeats, model.device, block)
    named = {"rule": "min_tokens", "ratio": 1.0, "scope": "attention"}
    return [*rows, with_bound(times, 1.0, **named) | prefill.sizes]


def shorter_row(prefill: Prefill, name: str, ratio: float, repeats: int) -> dict:
    """A dense model on a prompt of ratio * tokens, as of a smaller image."""
    short = max(int(ratio * prefill.tokens), 1)
    times = paired(
        prefill.dense, lambda: prefill.run("sparse", short), repeats, prefill.model.device
    )
    bound = layer_flops(prefill.shape, prefill.tokens) / layer_flops(prefill.shape, short)
    return with_bound(times, bound, rule=name, ratio=ratio, scope="input") | prefill.sizes


def sparse_row(
    prefill: Prefill, name: str, rule: Rule, ratio: float, scope: str, repeats: int
) -> dict:
    """The model under a rule, with the peak memory of both."""
    device = prefill.model.device
    with sparse(prefill.model, rule, scope=scope) as trace:
        prefill.sparse()
    block = partial(sparse, prefill.model, timed(rule), scope=scope)
    ratios = trace.layer_ratios[0].tolist()
    bound = prefill_bound(prefill.shape, prefill.tokens, ratios, scope)
    times = paired(prefill.dense, prefill.sparse, repeats, device, block)
    peaks = {"dense_peak_bytes": peak_bytes(prefill.dense, device)}
    with block():
        peaks["sparse_peak_bytes"] = peak_bytes(prefill.sparse, device)
    named = {"rule": name, "ratio": ratio, "scope": scope}
    return with_bound(times, bound, **named) | prefill.sizes | peaks
