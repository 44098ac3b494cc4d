"""Settings of a run as files keep them: old ones read, compared, and published without paths."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from zipr1.training.config import Ablation, TrainConfig


def flat_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings in train.json or run.json by name, nested ones as "ablation.sharpness".

    Files of version 0.1 have the ablation's options at the top level, and options that are newer
    than a file had their default.
    """
    defaults = asdict(TrainConfig())
    ablation = {field.name: settings.get(field.name) for field in fields(Ablation)}
    given = {name: value for name, value in ablation.items() if value is not None}
    nested = defaults["ablation"] | given | settings.get("ablation", {})
    flat = {name: settings.get(name, default) for name, default in defaults.items()}
    del flat["ablation"]
    return flat | {f"ablation.{name}": value for name, value in nested.items()}


def changed_settings(before: dict[str, Any], config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Name -> (value in a file, value now), where the two differ."""
    old, new = flat_settings(before), flat_settings(asdict(config))
    return {name: (old[name], new[name]) for name in new if old[name] != new[name]}


def published_name(source: str) -> str:
    """A model or data set as it may be published: a hub id as it is, of a local path the last part
    alone."""
    path = Path(source.split("[")[0])
    local = path.is_absolute() or source.startswith(("./", "../", "~")) or path.exists()
    return path.name if local else source
