"""Where the files of a model are: a hub id with its download options, a folder, or embedded."""

from functools import cache
from importlib import import_module
from os.path import exists, isdir
from pathlib import Path

from huggingface_hub import constants, is_offline_mode
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import get_session, http_backoff, validate_repo_id

from zipr1.common.errors import InputError

EMBEDDED = {"zipr1/tiny": Path(__file__).parent / "assets" / "tiny"}
# The arguments of from_pretrained that say which files are read, not what is done with them.
DOWNLOAD_OPTIONS = (
    "revision",
    "token",
    "cache_dir",
    "subfolder",
    "local_files_only",
    "force_download",
)


def split_options(options: dict) -> tuple[dict, dict]:
    """(download options that are set, all other arguments) of a call of from_pretrained."""
    download = {name: options[name] for name in DOWNLOAD_OPTIONS if options.get(name) is not None}
    return download, {k: v for k, v in options.items() if k not in DOWNLOAD_OPTIONS}


def locate(name: str | Path, **options) -> tuple[str, dict]:
    """(folder or hub id, download options), as from_pretrained takes them, of a model's name.

    Raises InputError where `name` is neither, or is a folder that has models in its subfolders.
    """
    options, _ = split_options(options)
    source = EMBEDDED.get(str(name), name)
    if not isdir(source):  # Path.is_dir() raises for a name that is too long
        if not is_hub_id(str(source)) or exists(source):
            raise InputError(f"{name}: neither a model folder nor a hub id (owner/name)")
        if not (is_offline_mode() or hub_answers()):
            options["local_files_only"] = True  # of what an earlier download has left
        return str(source), options
    if "revision" in options:
        raise InputError(
            f"revision={options['revision']!r}: {name} is a local folder; only hub ids have any"
        )
    folder = Path(source) / options.pop("subfolder", "")
    if not isdir(folder):
        raise InputError(f"{folder}: no such folder")
    if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        models = models_below(folder)
        hint = f": give one of the models in it: {', '.join(models)}" if models else ""
        raise InputError(f"{name}: no model: {folder} has no config.json{hint}")
    return str(folder), options


@cache
def hub_answers() -> bool:
    """Whether the hub answers, in two tries: for every file of a model, the libraries would try
    several times."""
    library = import_module(type(get_session()).__module__.partition(".")[0])  # httpx, or httpx2
    try:
        http_backoff(
            "HEAD", constants.ENDPOINT, max_retries=1, base_wait_time=0.5, retry_on_status_codes=()
        )
    except library.TransportError:
        return False
    return True


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form owner/name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def models_below(folder: Path) -> list[str]:
    """The models that `zipr1 train` or `zipr1 demo` wrote to a folder; the final one first."""
    patterns = ("final", "*/final", "checkpoint-*")
    places = [place for pattern in patterns for place in sorted(folder.glob(pattern))]
    files = ("config.json", "adapter_config.json")
    return [str(place) for place in places if any((place / file).is_file() for file in files)][:4]
