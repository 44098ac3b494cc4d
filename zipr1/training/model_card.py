"""README.md of a trained model: what it is, what it measured on its probe set, how to use it."""

from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from zipr1.models.families import VISION_FAMILIES
from zipr1.training.config import TrainConfig
from zipr1.training.settings import published_name

TEXT = """
# {title}

{base} after ZipR1 post-training ([arXiv 2504.18579](https://arxiv.org/abs/2504.18579)), preset
`{preset}`, {steps} steps, scope `{scope}`. Use it under Top-p token-sparse attention:

```python
import zipr1

model, processor = zipr1.load("{name}")
inputs = {inputs}
with zipr1.sparse(model, zipr1.TopP({p}), scope="{scope}") as trace:
    out = model.generate(**inputs, max_new_tokens=64)
trace.token_ratio  # measured
```

On the probe set of the training ({probes}), p = {p}:

| | token ratio | {metric}, sparse | {metric}, dense |
|---|---|---|---|
| before | {baseline_token_ratio} | {before} | {before_full} |
| after | {token_ratio} | {after} | {after_full} |

Made with zipr1 {version}, transformers {transformers}, torch {torch}. Settings: `zipr1.json`.
"""

CHAT = """processor.apply_chat_template(
    [{"role": "user", "content": [
        {"type": "image", "path": "picture.png"}, {"type": "text", "text": "What is shown?"},
    ]}],
    tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
)"""
PLAIN = 'processor("A text to continue", return_tensors="pt")'  # a text model's tokenizer


def model_card(config: TrainConfig, summary: dict[str, float | None], family: str) -> ModelCard:
    """`summary` is `metrics.final_row`. Paths of this machine are not published."""
    metric = "accuracy" if "accuracy" in summary else "logprob"
    base, vision = published_name(config.model), family in VISION_FAMILIES
    data = ModelCardData(
        base_model=base if base == config.model else None,  # a hub takes ids only
        library_name="peft" if config.use_peft else "transformers",
        pipeline_tag="image-text-to-text" if vision else "text-generation",
        tags=["zipr1", "token-sparse", "grpo"],
    )
    probes = published_name(config.probe_data) if config.probe_data else ", ".join(config.tasks)
    text = TEXT.format(
        title=config.push_to_hub or Path(config.output_dir).name,
        name=config.push_to_hub or "path/to/this/folder",
        base=base,
        inputs=CHAT if vision else PLAIN,
        preset=config.preset,
        steps=summary["step"],
        scope=config.scope,
        p=config.p,
        probes=probes,
        metric="accuracy" if metric == "accuracy" else "log-probability per token",
        baseline_token_ratio=number(summary["baseline_token_ratio"]),
        token_ratio=number(summary["token_ratio"]),
        before=number(summary[f"baseline_{metric}"]),
        after=number(summary[metric]),
        before_full=number(summary[f"baseline_full_{metric}"]),
        after_full=number(summary[f"full_{metric}"]),
        version=version("zipr1"),
        transformers=version("transformers"),
        torch=version("torch"),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"
