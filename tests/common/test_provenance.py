"""The commit that a result names is zipr1's own."""

import shutil
import subprocess
import sys
from pathlib import Path

import zipr1
from zipr1.common.provenance import commit_of, provenance

PACKAGE = Path(zipr1.__file__).parent


def repository(folder: Path) -> str:
    """Makes a repository of everything in a folder; returns the commit."""

    def git(*command: str) -> str:
        name = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        done = subprocess.run(
            ["git", *name, *command], cwd=folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--allow-empty", "-m", "all")
    return git("rev-parse", "HEAD")


def test_a_checkout_names_its_commit_and_whether_files_differ(tmp_path):
    shutil.copytree(PACKAGE / "common", tmp_path / "zipr1" / "common")
    shutil.copy(PACKAGE / "__init__.py", tmp_path / "zipr1")
    commit = repository(tmp_path)
    assert commit_of(tmp_path / "zipr1") == commit
    (tmp_path / "zipr1" / "__init__.py").write_text("")
    assert commit_of(tmp_path / "zipr1") == f"{commit}+changes"


def test_a_repository_around_the_environment_is_not_ours(tmp_path):
    """A virtual environment inside a user's project, ignored or even committed there."""
    place = tmp_path / ".venv" / "lib" / "site-packages" / "zipr1"
    place.mkdir(parents=True)
    (tmp_path / ".gitignore").write_text(".venv\n")
    repository(tmp_path)
    shutil.copy(PACKAGE / "__init__.py", place)
    assert commit_of(place) is None
    (tmp_path / ".gitignore").write_text("")
    repository(tmp_path)
    assert commit_of(place) is None


def test_no_repository_no_commit(tmp_path):
    shutil.copy(PACKAGE / "__init__.py", tmp_path)
    assert commit_of(tmp_path) is None


def test_versions_and_machine_are_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/zipr1", "eval", "--tasks", "sign"])
    found = provenance()
    assert found["versions"]["zipr1"] == zipr1.__version__ and found["versions"]["torch"]
    assert (
        found["device"] and found["threads"] >= 1 and found["command"] == "zipr1 eval --tasks sign"
    )
