"""Upper bounds of the speed-up: FLOPs of a prefill and bytes of a decode step, from shapes.

A multiplication with its addition counts two. Causal attention over l tokens is l * l / 2 pairs.
Norms, rotary embeddings, gates (of experts, of Qwen3.5's queries), the selection and the language
head are left out, so that a measured speed-up stays below its bound. Layers without full attention
count as many weights as those with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zipr1.models.families import sparse_layers


@dataclass(frozen=True)
class Shape:
    """A decoder: D hidden size, H query heads, Hkv key heads of size d, F the MLP's width (of
    experts those that a token passes through, together).

    sparse: how many of its layers have full attention, the only ones that can be sparse.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    sparse: int

    @classmethod
    def of(cls, config) -> "Shape":
        """From a transformers text configuration."""
        heads = config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv = config.num_key_value_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            heads,
            kv,
            head,
            mlp_width(config),
            len(sparse_layers(config, config.model_type)),
        )

    @property
    def inward(self) -> int:
        """Weights of q, k and v."""
        return self.hidden * self.head * (self.heads + 2 * self.kv_heads)

    @property
    def outward(self) -> int:
        """Weights of o_proj and the MLP."""
        return self.hidden * self.head * self.heads + 3 * self.hidden * self.mlp


def mlp_width(config) -> int:
    """Of what a token passes through: the MLP, or its experts together with the shared one."""
    if not (experts := getattr(config, "num_experts_per_tok", None)):
        return config.intermediate_size
    shared = getattr(config, "shared_expert_intermediate_size", None) or 0
    return experts * config.moe_intermediate_size + shared


def attention_flops(shape: Shape, tokens: float) -> float:
    """Of one layer: scores and values, causal."""
    return 4 * shape.heads * shape.head * tokens * tokens / 2


def layer_flops(
    shape: Shape,
    tokens: float,
    ratio: float = 1.0,
    scope: str = "attention",
    rows: float | None = None,
) -> float:
    """Of one layer for a prompt of `tokens`, of which it keeps the fraction `ratio` as keys.

    rows: the fraction whose queries are computed; None: all under scope "keys", else `ratio`.
    """
    if rows is None:
        rows = 1.0 if scope == "keys" else ratio
    attention = attention_flops(shape, tokens) * ratio * rows
    if scope != "layer" or rows == 1:
        return 2 * tokens * (shape.inward + shape.outward) + attention
    keys = shape.hidden * shape.head * shape.kv_heads  # of all tokens: the selection needs them
    if rows != ratio:
        keys *= 2  # and the values: a token whose row is not computed leaves both
    return 2 * tokens * (keys + rows * (shape.inward + shape.outward)) + attention


def decoder_flops(
    shape: Shape, tokens: float, ratios: Sequence[float] | None = None, scope: str = "attention"
) -> float:
    """Of all layers. ratios: what each of the sparse ones keeps; None: all tokens. The others count
    without attention, which a window or a state bounds."""
    ratios = [1.0] * shape.sparse if ratios is None else ratios
    dense = 2 * tokens * (shape.inward + shape.outward)
    sparse = sum(layer_flops(shape, tokens, ratio, scope) for ratio in ratios)
    return sparse + (shape.layers - len(ratios)) * dense


def prefill_bound(shape: Shape, tokens: int, ratios: list[float], scope: str) -> float:
    """The largest speed-up of a prefill whose layers keep `ratios`, one number per layer."""
    return (
        len(ratios)
        * layer_flops(shape, tokens)
        / sum(layer_flops(shape, tokens, ratio, scope) for ratio in ratios)
    )


def tower_flops(tokens: float, image: float, full: int, depth: int, hidden: int, mlp: int) -> float:
    """Of a vision tower like Qwen2.5-VL's for visual tokens of four patches each.

    full: how many of its `depth` blocks attend among all patches of `image` visual tokens; the
    others attend within windows of 64 patches. hidden, mlp: width of a block and of its MLP. The
    patch embedding and the merger are left out.
    """
    patches = 4 * tokens
    weights = 4 * hidden**2 + 3 * hidden * mlp
    attended = full * 4 * image + (depth - full) * 64
    return patches * (2 * depth * weights + 4 * hidden * attended)


def kv_bytes(shape: Shape, tokens: float, itemsize: int) -> float:
    """Of one sequence, all layers with full attention."""
    return 2 * shape.sparse * shape.kv_heads * shape.head * tokens * itemsize


def decode_bytes(shape: Shape, batch: int, tokens: int, ratio: float, itemsize: int) -> float:
    """Read by one decode step: the weights once, the kept keys and values of every sequence."""
    weights = shape.layers * (shape.inward + shape.outward) * itemsize
    return weights + batch * kv_bytes(shape, ratio * tokens, itemsize)


def decode_bound(shape: Shape, batch: int, tokens: int, ratio: float, itemsize: int) -> float:
    """The largest speed-up of a decode step that does nothing but read memory."""
    return decode_bytes(shape, batch, tokens, 1.0, itemsize) / decode_bytes(
        shape, batch, tokens, ratio, itemsize
    )
