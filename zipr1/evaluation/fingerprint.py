"""What answers depend on beside the settings: the files of the model, and the code that asked.

Saved with them, so that the answers of another model or of another version are never taken for these.
"""

import json
from hashlib import sha256
from pathlib import Path

from transformers.utils import cached_file, extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

from zipr1.models.location import EMBEDDED

PACKAGE = Path(__file__).parents[1]
# What draws the questions, reads the media and computes the answers.
SOURCES = ("tasks", "sparsity", "models", "data", "evaluation")


def code() -> str:
    """Hash of the source code in the folders `SOURCES`: a commit would miss uncommitted changes, and would change with every
    comment elsewhere. Raises FileNotFoundError for a folder without code."""
    found = sha256()
    for folder in SOURCES:
        files = sorted((PACKAGE / folder).rglob("*.py"))
        if not files:
            raise FileNotFoundError(
                f"{PACKAGE / folder}: no source code; correct SOURCES in {__file__}"
            )
        for path in files:
            found.update(str(path.relative_to(PACKAGE)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


def weights(name: str | Path) -> dict:
    """File -> [size, time of its last change] of a model's folder, its card aside; {"revision"} of a hub id, whose config.json
    is fetched if it is not here; of an adapter also its "base". Raises OSError where there is no model."""
    source = EMBEDDED.get(str(name), name)
    here = Path(source).is_dir()
    try:
        adapter = None if str(name) in EMBEDDED else find_adapter_config_file(str(source))
        file = None if here else adapter or cached_file(str(source), "config.json")
    except OSError as error:  # its own message does not always name the model
        raise OSError(f"{name}: no such model ({error})") from error
    if here:
        files = sorted(
            path for path in Path(source).iterdir() if path.is_file() and path.suffix != ".md"
        )  # no model card
        found: dict = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    else:
        found = {"revision": extract_commit_hash(file, None)}
    if adapter:
        found["base"] = weights(json.loads(Path(adapter).read_text())["base_model_name_or_path"])
    return found
