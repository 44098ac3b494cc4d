"""What answers depend on besides the settings: the model's files and the source code.

It is saved with the answers, so that those of another model or version are never taken for these.
"""

import json
from hashlib import sha256
from pathlib import Path

from transformers.utils import cached_file, extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

from zipr1.common.documents import read_json
from zipr1.models.location import EMBEDDED

PACKAGE = Path(__file__).parents[1]
# What draws the questions, reads the media, and computes and grades the answers.
SOURCES = ("tasks", "sparsity", "models", "data", "rewards", "evaluation", "vllm")


def code() -> str:
    """Hash of the source code in SOURCES: a commit would miss uncommitted changes, and would change
    with every comment elsewhere.

    Raises FileNotFoundError for a folder without code.
    """
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
    """What stands for a model's weights.

    Of a folder: file -> [size, time of its last change], without its model card; of a hub id:
    "revision", whose config.json is fetched if it is not in the cache; of an adapter also "base".
    Raises OSError where there is no model.
    """
    source = EMBEDDED.get(str(name), name)
    is_folder = Path(source).is_dir()
    try:
        adapter = None if str(name) in EMBEDDED else find_adapter_config_file(str(source))
        file = None if is_folder else adapter or cached_file(str(source), "config.json")
    except OSError as error:  # its own message does not always name the model
        raise OSError(f"{name}: no such model ({error})") from error
    if is_folder:
        files = sorted(
            path for path in Path(source).iterdir() if path.is_file() and path.suffix != ".md"
        )
        found: dict = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    else:
        found = {"revision": extract_commit_hash(file, None)}
    if adapter:
        found["base"] = weights(json.loads(Path(adapter).read_text())["base_model_name_or_path"])
    return found


def differing(path: Path, identity: dict) -> list[str]:
    """The names under which a saved identity differs from this one; none without a file.

    Raises InputError for a file that is not JSON.
    """
    if not path.is_file():
        return []
    found = read_json(path)
    found = found if isinstance(found, dict) else {}
    return [name for name in identity if found.get(name) != identity[name]]
