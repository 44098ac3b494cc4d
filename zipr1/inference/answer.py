"""Answers one question: the text, its token ratio, and which tokens each layer kept."""

from pathlib import Path

import torch
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.common.progress import announced
from zipr1.inference.config import AnswerConfig
from zipr1.inference.overlay import kept_pages, save_pages
from zipr1.inference.prompt import Prompt, grids, read_prompt, tiles
from zipr1.models.encode import check_length
from zipr1.models.families import is_vision
from zipr1.models.loading import load, tokenizer_of
from zipr1.models.settings import trained_settings
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP


@torch.no_grad()
def answer(config: AnswerConfig) -> dict:
    """The answer with its token ratio, kept tokens per layer and bytes of the KV cache.

    The files are read before the model is loaded. Raises InputError for anything that cannot be
    used as it is.
    """
    if config.picture:
        check_picture(Path(config.picture))
    trained = trained_settings(config.model)
    rule = TopP(trained.p if config.p is None else config.p, trained.choice)
    with announced("reading the files"):
        prompt = read_prompt(config)
    with announced(f"loading {config.model}"):
        model, processor = load_model(config, prompt)
    inputs = prompt.inputs(processor).to(model.device)
    check_length(model, inputs, config.max_new_tokens)
    sizes = grids(prompt, inputs, processor) if config.picture else []
    with (
        announced("answering"),
        sparse(model, rule, scope=config.scope or trained.scope) as trace,
    ):
        text, cache = generate(model, processor, inputs, config.max_new_tokens)
    length, per_token = inputs["input_ids"].shape[1], token_bytes(cache.layers[trace.layers[0]])
    kept = [int(layer.sum()) for layer in trace.kept]
    result = {
        "answer": text,
        "token_ratio": trace.token_ratio.item(),
        "p": rule.p,
        "tokens": length,
        "sparse_layers": list(trace.layers),
        "kept_tokens_per_layer": kept,
        "kv_bytes_kept": per_token * sum(kept),
        "kv_bytes_saved": per_token * (length * len(kept) - sum(kept)),
        "model": config.model,
    }
    if config.compare:
        with announced("answering with dense attention"):
            dense, _ = generate(model, processor, inputs, config.max_new_tokens)
        result["full"] = {
            "answer": dense,
            "token_ratio": 1.0,
            "kept_tokens_per_layer": [length] * len(kept),
            "kv_bytes_kept": per_token * length * len(kept),
        }
    if config.picture:
        caption = (
            f"{prompt.chat[-1]['content'][-1]['text']} {result['answer']} "
            f"(token ratio {result['token_ratio']:.0%}, p = {rule.p:g})"
        )
        draw(Path(config.picture), prompt, inputs, sizes, trace, caption)
        result["picture"] = config.picture
    return result


def load_model(config: AnswerConfig, prompt: Prompt) -> tuple:
    """(model, processor), on a GPU where there is one. Raises InputError for images to a text
    model."""
    model, processor = load(config.model)
    if prompt.media and not is_vision(model.config):
        raise InputError(
            f"{config.model}: a text model ({model.config.model_type}) takes no images; use a "
            "vision model"
        )
    return (model.to("cuda") if torch.cuda.is_available() else model), processor


def generate(model, processor, inputs, max_new_tokens: int) -> tuple[str, object]:
    """(the answer, the KV cache) of greedy decoding."""
    out = model.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, return_dict_in_generate=True
    )
    new = out.sequences[0, inputs["input_ids"].shape[1] :]
    return tokenizer_of(processor).decode(
        new, skip_special_tokens=True
    ).strip(), out.past_key_values


def token_bytes(layer) -> int:
    """Bytes of the keys and values of one token in a layer of the KV cache."""
    keys = layer.keys
    return 2 * keys.shape[1] * keys.shape[3] * keys.element_size()


def draw(path: Path, prompt: Prompt, inputs, sizes: list, trace, caption: str) -> None:
    """Writes the kept tokens over the images and videos of the prompt."""
    visual = inputs["mm_token_type_ids"][0].bool().cpu()
    kept = torch.stack([layer[0].cpu()[visual] for layer in trace.kept]).numpy()
    drawn = tiles(prompt, kept, sizes)
    ratios = trace.layer_ratios[0].tolist()
    save_pages(kept_pages(drawn, ratios, caption, trace.layers), path)


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
        f"token ratio    {result['token_ratio']:.1%} at p = {result['p']:g}, of "
        f"{result['tokens']} prompt tokens",
        f"kept per layer {' '.join(map(str, result['kept_tokens_per_layer']))}",
        f"KV cache       {result['kv_bytes_kept']:,} bytes kept, {result['kv_bytes_saved']:,} of "
        f"{total:,} saved",
    ]
    if full := result.get("full"):
        lines.append(f"dense          {full['answer']} ({full['kv_bytes_kept']:,} KV bytes)")
    if picture := result.get("picture"):
        lines.append(f"picture        {picture}")
    return "\n".join(lines)
