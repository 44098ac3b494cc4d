"""Answers one question: the text, its token ratio, and which tokens each layer kept."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from zipr1.common.errors import InputError, RunError
from zipr1.common.overlay import kept_pages, save_pages
from zipr1.common.progress import announced
from zipr1.common.scope import Scope
from zipr1.common.tables import markdown_table
from zipr1.data.processor import limit_pixels
from zipr1.evaluation.methods import rule_of
from zipr1.inference.config import RATIO, AnswerConfig
from zipr1.inference.picture import check_picture
from zipr1.inference.prompt import Prompt, grids, read_prompt, tiles
from zipr1.inference.timing import compared
from zipr1.models.encode import check_length
from zipr1.models.families import is_vision, visual_columns
from zipr1.models.loading import load, tokenizer_of
from zipr1.models.settings import trained_settings
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import Rule
from zipr1.sparsity.trace import Trace


def answer(config: AnswerConfig) -> dict:
    """The answer with its token ratios, kept tokens per layer and bytes of the KV cache; with
    `compare` also the dense answer, and times and peak memory of both.

    The files are read before the model is loaded. Raises InputError for anything that cannot be
    used as it is.
    """
    if config.picture:
        check_picture(config.picture, config.files)
    trained = trained_settings(config.model)
    p = trained.p if config.p is None else config.p
    rule = rule_of(config.rule, p, config.ratio or RATIO, choice=trained.choice)
    with announced("reading the files"):
        prompt = read_prompt(config)
    with announced(f"loading {config.model}"):
        loaded = load_model(config, bool(prompt.media))
    scope = config.scope or trained.scope
    result, pages = respond(config, prompt, loaded, rule, scope, bool(config.picture))
    if config.picture:
        save_picture(config, pages, result)
        result["picture"] = config.picture
    return result


def save_picture(config: AnswerConfig, pages: Iterator[Image.Image], result: dict) -> None:
    """Raises RunError, with the answer, where the format takes no image of this size, or the disk
    none at all."""
    try:
        save_pages(pages, Path(config.picture))
    except InputError:  # of what is drawn
        raise
    except (OSError, ValueError, RuntimeError) as error:  # as the encoders of Pillow do
        failure = RunError(f"--picture {config.picture}: could not be written ({error})")
        failure.found = json.dumps(result) if config.json else describe(result)
        raise failure from error


@torch.no_grad()
def respond(
    config: AnswerConfig, prompt: Prompt, loaded: tuple, rule: Rule, scope: Scope, picture: bool
) -> tuple[dict, Iterator[Image.Image]]:
    """(what `answer` returns, the pages of the picture, none unless `picture`).

    loaded: `load_model`. Raises InputError for a prompt that is too long, and for a picture of a
    model that does not say where its visual tokens lie.
    """
    model, processor = loaded
    inputs = prompt.inputs(processor).to(model.device)
    check_length(model, inputs, config.max_new_tokens)
    sizes = grids(prompt, inputs, processor) if picture else []
    block = partial(sparse, model, rule, scope=scope)
    run = partial(
        model.generate, **inputs, max_new_tokens=config.max_new_tokens, do_sample=False,
        return_dict_in_generate=True,
    )  # fmt: skip
    with announced("answering"), block() as trace:
        text, cache = decoded(run(), inputs, processor)
    per_token = token_bytes(cache.layers[trace.layers[0]])
    result = summary(config, text, rule, trace, inputs, model, per_token)
    caption = f"{prompt.question} {text} ({described(result)})"
    pages = drawn(prompt, inputs, sizes, trace, caption) if picture else iter(())
    if config.compare:
        with announced("answering with dense attention"):
            dense, _ = decoded(run(), inputs, processor)
            result["full"] = {"answer": dense} | dense_summary(result)
            measured = compared(run, {"sparse": block, "dense": nullcontext}, model.device)
        result |= measured["sparse"]
        result["full"] |= measured["dense"]
    return result, pages


def summary(
    config: AnswerConfig, text: str, rule: Rule, trace: Trace, inputs, model, per_token: int
) -> dict:
    """What the command prints of the sparse answer."""
    length = inputs["input_ids"].shape[1]
    visual = visual_columns(model.config, inputs["input_ids"])[0].cpu()
    kept = torch.stack([layer[0].cpu() for layer in trace.kept])  # (layers, L)
    counts = kept.sum(-1).tolist()

    def fraction(tokens: torch.Tensor) -> float | None:
        return kept[:, tokens].float().mean().item() if tokens.any() else None

    return {
        "answer": text,
        "token_ratio": trace.token_ratio.item(),
        "rule": config.rule,
        "p": getattr(rule, "p", None),
        "ratio": getattr(rule, "ratio", None),
        "tokens": length,
        "visual_tokens": int(visual.sum()),
        "visual_token_ratio": fraction(visual),
        "text_token_ratio": fraction(~visual),
        "sparse_layers": list(trace.layers),
        "kept_tokens_per_layer": counts,
        "kv_bytes_kept": per_token * sum(counts),
        "kv_bytes_saved": per_token * (length * len(counts) - sum(counts)),
        "model": config.model,
    }


def dense_summary(result: dict) -> dict:
    """The same of dense attention, which keeps everything."""
    layers = len(result["kept_tokens_per_layer"])
    return {
        "token_ratio": 1.0,
        "kept_tokens_per_layer": [result["tokens"]] * layers,
        "kv_bytes_kept": result["kv_bytes_kept"] + result["kv_bytes_saved"],
    }


def load_model(config: AnswerConfig, media: bool) -> tuple:
    """(model, processor), on a GPU where there is one. Raises InputError for images or videos
    (`media`) to a text model."""
    model, processor = load(config.model, **({"dtype": config.dtype} if config.dtype else {}))
    if media and not is_vision(model.config):
        raise InputError(
            f"{config.model}: a text model ({model.config.model_type}) takes no images; use a "
            "vision model"
        )
    limit_pixels(processor, config.max_pixels, None)
    return (model.to("cuda") if torch.cuda.is_available() else model), processor


def decoded(out, inputs, processor) -> tuple[str, object]:
    """(the answer, the KV cache) of what generate() gave."""
    new = out.sequences[0, inputs["input_ids"].shape[1] :]
    return tokenizer_of(processor).decode(
        new, skip_special_tokens=True
    ).strip(), out.past_key_values


def token_bytes(layer) -> int:
    """Bytes of the keys and values of one token in a layer of the KV cache."""
    keys = layer.keys
    return 2 * keys.shape[1] * keys.shape[3] * keys.element_size()


def drawn(prompt: Prompt, inputs, sizes: list, trace: Trace, caption: str) -> Iterator[Image.Image]:
    """The kept tokens over the images and videos of the prompt: `kept_pages`."""
    visual = inputs["mm_token_type_ids"][0].bool().cpu()
    kept = torch.stack([layer[0].cpu()[visual] for layer in trace.kept]).numpy()
    ratios = trace.layer_ratios[0].tolist()
    return kept_pages(tiles(prompt, kept, sizes), ratios, caption, trace.layers)


def described(result: dict) -> str:
    """The measured token ratio and what the rule was given."""
    given = [f"{name} = {result[name]:g}" for name in ("p", "ratio") if result[name] is not None]
    return ", ".join([f"token ratio {result['token_ratio']:.1%}", result["rule"], *given])


def describe(result: dict) -> str:
    """The result for a person."""
    total = result["kv_bytes_kept"] + result["kv_bytes_saved"]
    text_tokens = result["tokens"] - result["visual_tokens"]
    lines = [result["answer"], "", f"{described(result)}, of {result['tokens']} prompt tokens"]
    for name, count in (("visual", result["visual_tokens"]), ("text", text_tokens)):
        if count:
            lines.append(f"{name + ' tokens':<15}{result[f'{name}_token_ratio']:.1%} of {count}")
    lines += [
        f"kept per layer {' '.join(map(str, result['kept_tokens_per_layer']))}",
        f"KV cache       {result['kv_bytes_kept']:,} bytes kept, {result['kv_bytes_saved']:,} of "
        f"{total:,} saved",
    ]
    if full := result.get("full"):
        lines += ["", comparison(result, full)]
    if picture := result.get("picture"):
        lines.append(f"picture        {picture}")
    return "\n".join(lines)


def comparison(result: dict, full: dict) -> str:
    """A table of both answers, their times and memory."""
    head, *rows = comparison_cells(result, full)
    return markdown_table(head, rows).rstrip("\n")


def comparison_cells(result: dict, full: dict) -> list[list[str]]:
    """Of that table: the heads, a row of sparse and one of dense attention."""

    def milliseconds(row: dict, name: str) -> str:
        return "-" if row[name] is None else f"{row[name]:.1f} ms"

    def memory(row: dict) -> str:
        return "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.1f} MB"

    rows = [
        [
            name,
            " ".join(row["answer"].split()).replace("|", "\\|"),
            f"{row['token_ratio']:.1%}",
            milliseconds(row, "prefill_ms"),
            milliseconds(row, "ms_per_token"),
            memory(row),
            f"{row['kv_bytes_kept'] / 1e6:.2f} MB",
        ]
        for name, row in (("sparse", result), ("dense", full))
    ]
    return [["", "answer", "tokens", "prefill", "per token", "peak memory", "KV cache"], *rows]
