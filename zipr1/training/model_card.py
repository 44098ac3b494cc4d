"""README.md of a trained model: what it is, what it came to, how to use it."""

from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from zipr1.models.families import VISION_FAMILIES
from zipr1.training.config import TrainConfig

TEXT = """
# {name}

{base} after ZipR1 post-training ([arXiv 2504.18579](https://arxiv.org/abs/2504.18579)), preset `{preset}`, {steps} steps, scope
`{scope}`. It is meant to be run under Top-p token-sparse attention:

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
| before | {baseline_token_ratio:.3f} | {before:.3f} | {before_full:.3f} |
| after | {token_ratio:.3f} | {after:.3f} | {after_full:.3f} |

Made with zipr1 {version}, transformers {transformers}, torch {torch}. Settings: `zipr1.json`.
"""

CHAT = """processor.apply_chat_template(
    [{"role": "user", "content": [{"type": "image", "path": "picture.png"}, {"type": "text", "text": "What is shown?"}]}],
    tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt",
)"""
PLAIN = 'processor("A text to go on with", return_tensors="pt")'  # a text model's tokenizer


def model_card(config: TrainConfig, found: dict[str, float], family: str) -> ModelCard:
    """`found` is `metrics.final_row`."""
    metric = "accuracy" if "accuracy" in found else "logprob"
    data = ModelCardData(
        base_model=None if Path(config.model).exists() else config.model,  # a hub takes ids only
        library_name="peft" if config.use_peft else "transformers",
        pipeline_tag="image-text-to-text" if family in VISION_FAMILIES else "text-generation",
        tags=["zipr1", "token-sparse", "grpo"],
    )
    text = TEXT.format(
        name=config.push_to_hub or f"{config.output_dir}/final",
        base=config.model,
        inputs=CHAT if family in VISION_FAMILIES else PLAIN,
        preset=config.preset,
        steps=config.max_steps,
        scope=config.scope,
        p=config.p,
        probes=config.probe_data or ", ".join(config.tasks),
        metric="accuracy" if metric == "accuracy" else "log-probability a token",
        baseline_token_ratio=found["baseline_token_ratio"],
        token_ratio=found["token_ratio"],
        before=found[f"baseline_{metric}"],
        after=found[metric],
        before_full=found[f"baseline_full_{metric}"],
        after_full=found[f"full_{metric}"],
        version=version("zipr1"),
        transformers=version("transformers"),
        torch=version("torch"),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")
