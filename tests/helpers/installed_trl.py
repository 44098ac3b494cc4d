"""TRL, where it is installed."""

import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest


def trl_or_skip() -> ModuleType:
    """The module with its trainers; skips the test without it. The folder tests/vllm, which pytest
    puts on the path, would pass for an installed vLLM."""
    own = [path for path in sys.path if Path(path).name != "tests"]
    with patch.object(sys, "path", own):
        trl = pytest.importorskip("trl")
        trl.GRPOTrainer, trl.SFTTrainer  # noqa: B018  imported when first used
    return trl
