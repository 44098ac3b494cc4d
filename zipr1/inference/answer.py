"""One question about one file: the answer, what it took, and what was kept."""

from pathlib import Path

import torch
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.data.example import Example
from zipr1.data.media import read_media
from zipr1.data.media_column import media_of_text
from zipr1.data.processor import frame_size, prepare, visual_grid
from zipr1.inference.config import AnswerConfig
from zipr1.inference.overlay import kept_pages, layer_masks, save_pages
from zipr1.models.encode import check_length
from zipr1.models.loading import load_vision
from zipr1.models.settings import trained_settings
from zipr1.models.versions import cache_of
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP


@torch.no_grad()
def answer(config: AnswerConfig) -> dict:
    """The answer with its token ratio, kept tokens per layer and KV bytes. Raises on bad input, substitutes nothing."""
    trained = trained_settings(config.model)
    rule = TopP(trained.p if config.p is None else config.p, trained.choice)
    if not config.question.strip():
        raise InputError("the question is empty: ask something about the picture or clip")
    if config.picture:
        check_picture(Path(config.picture))
    model, processor = load_vision(config.model)
    limit = min(config.max_frames, processor.video_processor.max_frames)
    media = read_media(media_of_text(config.file, None), limit, frame_size(processor))
    example = Example(config.file, "", config.question, "", **media)
    inputs = prepare(processor, [example]).to(model.device)
    check_length(model, inputs, config.max_new_tokens)

    settings = {
        "max_new_tokens": config.max_new_tokens,
        "do_sample": False,
        "return_dict_in_generate": True,
    }
    prompt = inputs["input_ids"].shape[1]

    def said(out) -> str:
        return processor.tokenizer.decode(
            out.sequences[0, prompt:], skip_special_tokens=True
        ).strip()

    with sparse(model, rule, scope=config.scope or trained.scope) as trace:
        out = model.generate(**inputs, **settings)
    keys = cache_of(out).layers[0].keys
    per_token = (
        2 * keys.shape[1] * keys.shape[3] * keys.element_size()
    )  # keys and values of one layer, one token
    kept = [int(layer.sum()) for layer in trace.kept]
    result = {
        "answer": said(out),
        "token_ratio": trace.token_ratio.item(),
        "p": rule.p,
        "tokens": prompt,
        "kept_tokens_per_layer": kept,
        "kv_bytes_kept": per_token * sum(kept),
        "kv_bytes_saved": per_token * (prompt * len(kept) - sum(kept)),
        "model": config.model,
    }
    if config.compare:
        dense = model.generate(**inputs, **settings)
        result["full"] = {
            "answer": said(dense),
            "token_ratio": 1.0,
            "kept_tokens_per_layer": [prompt] * len(kept),
            "kv_bytes_kept": per_token * prompt * len(kept),
        }
    if config.picture:
        visual = inputs["mm_token_type_ids"][0].bool().cpu().numpy()
        masks = layer_masks(
            [layer[0].cpu() for layer in trace.kept], visual, visual_grid(inputs, 0, processor)
        )
        images = list(media.get("frames") or [media["image"]])
        caption = f"{config.question} {result['answer']} (token ratio {result['token_ratio']:.0%}, p = {rule.p:g})"
        save_pages(
            kept_pages(images, masks, trace.layer_ratios[0].tolist(), caption), Path(config.picture)
        )
        result["picture"] = config.picture
    return result


def check_picture(path: Path) -> None:
    """Makes the folder. Raises InputError for a format that Pillow cannot write."""
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise InputError(
            f"--picture {path}: not an image format that can be written; use .png, .gif or .pdf"
        )
    path.parent.mkdir(parents=True, exist_ok=True)


def describe(result: dict) -> str:
    """The result for a person."""
    total = result["kv_bytes_kept"] + result["kv_bytes_saved"]
    lines = [
        result["answer"],
        "",
        f"token ratio    {result['token_ratio']:.1%} at p = {result['p']:g}, of {result['tokens']} prompt tokens",
        f"kept per layer {' '.join(map(str, result['kept_tokens_per_layer']))}",
        f"KV cache       {result['kv_bytes_kept']:,} bytes kept, {result['kv_bytes_saved']:,} of {total:,} saved",
    ]
    if full := result.get("full"):
        lines.append(f"dense          {full['answer']} ({full['kv_bytes_kept']:,} KV bytes)")
    if picture := result.get("picture"):
        lines.append(f"picture        {picture}")
    return "\n".join(lines)
