"""A repository in the cache of a hub, as if it had been downloaded: no test may reach for a hub."""

import shutil
from hashlib import sha1
from pathlib import Path


def publish(cache: Path, name: str, folder: Path, revision: str, below: str = "") -> None:
    """Puts the files of `folder` into `cache` as the branch `revision` of the repository `name`.

    below: the subfolder of the repository that holds them.
    """
    repository = Path(cache) / f"models--{name.replace('/', '--')}"
    commit = sha1(revision.encode()).hexdigest()
    shutil.copytree(folder, repository / "snapshots" / commit / below, dirs_exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
