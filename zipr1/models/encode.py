"""From a processor's tensors to the input of the text decoder; selecting and extending it."""

from dataclasses import dataclass

import torch

from zipr1.common.errors import InputError
from zipr1.models.families import QWEN_VL_FAMILIES, decoder, is_vision
from zipr1.models.positions import corrected_positions


@dataclass
class Encoded:
    """A prompt after the vision tower.

    embeds: the keyword arguments of the text decoder: inputs_embeds (B, L, D), attention_mask
        (B, L), position_ids (3, B, L), or (B, L) of a text model; for Qwen3-VL also
        visual_pos_masks (B, L) and deepstack_visual_embeds, the features for its first layers at
        the visual tokens.
    features: the visual tokens, one (T*H*W, D) tensor per image or video.
    prompt_ids: (B, L) token ids, -1 at the visual tokens: what another model, or a pass with
        gradients, embeds again.
    """

    embeds: dict
    features: list[torch.Tensor]
    prompt_ids: torch.Tensor


class DecoderReached(Exception):
    """Ends a forward pass where the decoder begins; holds the decoder's keyword arguments."""

    def __init__(self, arguments: dict):
        super().__init__()
        self.arguments = arguments


def encode(model, inputs) -> Encoded:
    """Runs the vision tower once and computes the rotary positions of each token."""
    if not is_vision(model.config):
        return encode_text(model, inputs)
    if model.config.model_type in QWEN_VL_FAMILIES:
        return encode_qwen(model, inputs)
    return encode_vision(model, inputs)


def encode_text(model, inputs) -> Encoded:
    """`encode` of a text model: embeddings, and positions that count from the first real token."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    embeds = model.get_input_embeddings()(ids)
    arguments = {
        "inputs_embeds": embeds,
        "attention_mask": mask,
        "position_ids": text_positions(mask),
    }
    return Encoded(arguments, [], ids)


def text_positions(mask: torch.Tensor) -> torch.Tensor:
    """(B, L) positions of a left-padded batch."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def encode_vision(model, inputs) -> Encoded:
    """`encode` of any vision-language model: its own forward pass, ended before the decoder."""

    def stop(module, args, kwargs):
        raise DecoderReached(kwargs)

    handle = decoder(model).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.model(**inputs, use_cache=False)
    except DecoderReached as reached:
        found = reached.arguments
    finally:
        handle.remove()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    positions = found.get("position_ids")
    if positions is None:  # no image in the batch, or a decoder that counts by itself
        positions = text_positions(mask)
        if hasattr(model.model, "get_rope_index"):
            positions = positions.expand(3, -1, -1)
    masks = found["attention_mask"]  # of each kind of layer, where they are more than causal
    arguments = {
        "inputs_embeds": found["inputs_embeds"],
        "attention_mask": masks if isinstance(masks, dict) else mask,
    }
    arguments["position_ids"] = positions
    tokens = (model.config.image_token_id, getattr(model.config, "video_token_id", None))
    visual = torch.isin(ids, torch.tensor([t for t in tokens if t is not None], device=ids.device))
    return Encoded(arguments, [], ids.masked_fill(visual, -1))


def encode_qwen(model, inputs) -> Encoded:
    """`encode` of a Qwen-VL model; also keeps the visual features and those of deepstack."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    embeds = model.get_input_embeddings()(ids)
    features: list[torch.Tensor] = []
    visual = torch.zeros_like(ids, dtype=torch.bool)
    deepstack: list[torch.Tensor] = []  # of Qwen3-VL: features for the first layers, (B, L, D) each
    for pixels, grid, get, token in (
        (
            "pixel_values",
            "image_grid_thw",
            model.model.get_image_features,
            model.config.image_token_id,
        ),
        (
            "pixel_values_videos",
            "video_grid_thw",
            model.model.get_video_features,
            model.config.video_token_id,
        ),
    ):
        if pixels in inputs:
            out = get(inputs[pixels], inputs[grid])
            features += out.pooler_output
            here = (ids == token)[..., None]
            visual = visual | here[..., 0]
            embeds = embeds.masked_scatter(
                here, torch.cat(list(out.pooler_output)).to(embeds.dtype)
            )
            layers = [
                torch.cat(list(layer)).to(embeds.dtype)
                for layer in getattr(out, "deepstack_features", [])
            ]
            deepstack = deepstack or [torch.zeros_like(embeds) for _ in layers]
            deepstack = [
                full.masked_scatter(here, part)
                for full, part in zip(deepstack, layers, strict=True)
            ]
    names = (
        "mm_token_type_ids",
        "image_grid_thw",
        "video_grid_thw",
        "second_per_grid_ts",
        "attention_mask",
    )
    with corrected_positions(model):
        positions, _ = model.model.get_rope_index(
            ids, **{name: inputs[name] for name in names if name in inputs}
        )
    embeds = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
    if deepstack:
        embeds |= {
            "visual_pos_masks": visual,
            "deepstack_visual_embeds": [layer[visual] for layer in deepstack],
        }
    return Encoded(embeds, features, ids.masked_fill(visual, -1))


def take(embeds: dict, rows: torch.Tensor) -> dict:
    """The prompts number `rows` (N,) of a batch; a row may come several times."""
    batch = {name: part for name, part in embeds.items() if name != "deepstack_visual_embeds"}
    taken = {
        name: part.index_select(part.ndim - 2 if name == "position_ids" else 0, rows)
        for name, part in batch.items()
    }
    if "deepstack_visual_embeds" in embeds:
        counts = embeds["visual_pos_masks"].sum(-1).tolist()
        layers = [layer.split(counts) for layer in embeds["deepstack_visual_embeds"]]
        taken["deepstack_visual_embeds"] = [
            torch.cat([parts[row] for row in rows.tolist()]) for parts in layers
        ]
    return taken


def following(embeds: dict, count: int) -> torch.Tensor:
    """Positions of the `count` tokens after each prompt: (3, B, count), (B, count) for text."""
    positions = embeds["position_ids"]
    last = positions.amax(-1)
    last = last if last.ndim == 1 else last.amax(0).expand(3, -1)
    return last[..., None] + 1 + torch.arange(count, device=positions.device)


def extend(
    model, embeds: dict, prompt_ids: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
) -> dict:
    """The decoder's input for (prompt, completion) in one pass.

    tokens and mask (B, T): the completions, mask False after their end. prompt_ids (B, L) as in
    `Encoded`: of a prompt only the visual tokens are taken as they were encoded. Raises InputError
    for a model whose masks are more than causal.
    """
    check_causal(model)
    words = model.get_input_embeddings()(torch.cat([prompt_ids.clamp(min=0), tokens], dim=1))
    new, length = words[:, prompt_ids.shape[1] :], prompt_ids.shape[1]
    # The reference may be of another dtype than the policy that encoded the prompt.
    prompt = torch.where(
        prompt_ids[..., None] < 0, embeds["inputs_embeds"].to(words.dtype), words[:, :length]
    )
    together = {
        "inputs_embeds": torch.cat([prompt, new], dim=1),
        "attention_mask": torch.cat([embeds["attention_mask"], mask.long()], dim=1),
        "position_ids": torch.cat(
            [embeds["position_ids"], following(embeds, tokens.shape[1])], dim=-1
        ),
    }
    if "visual_pos_masks" in embeds:
        together["visual_pos_masks"] = torch.cat(
            [embeds["visual_pos_masks"], torch.zeros_like(mask)], dim=1
        )
        together["deepstack_visual_embeds"] = [
            layer.to(new.dtype) for layer in embeds["deepstack_visual_embeds"]
        ]
    return together


def check_causal(model) -> None:
    """Raises InputError for a model that `extend` does not serve."""
    if model.config.model_type == "gemma3":
        raise InputError(
            "gemma3 cannot be trained: its image tokens attend to later ones, and a training pass "
            "over prompt and completion is causal; inference is supported"
        )


def check_trainable(model) -> None:
    """Raises InputError for a model whose training passes would not be what it computes."""
    check_causal(model)
    text = model.config.get_text_config(decoder=True)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (cap := getattr(text, name, None)) is not None:
            raise InputError(
                f"{type(model).__name__} cannot be trained with {name}={cap}: training passes do "
                "not cap logits; inference is supported"
            )


def check_length(model, inputs, new_tokens: int) -> None:
    """Raises InputError for a prompt that, with its answer, exceeds the model's positions."""
    length = inputs["input_ids"].shape[1]
    limit = model.config.get_text_config().max_position_embeddings
    if length + new_tokens > limit:
        raise InputError(
            f"the prompt has {length} tokens and the answer up to {new_tokens}, the model {limit} "
            "positions: use a shorter question, a smaller image or fewer frames"
        )
