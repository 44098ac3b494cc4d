"""A hub that does not answer costs two tries, and a model in the cache is loaded all the same."""

import os
import subprocess
import sys

from hub_cache import publish

from zipr1.models.location import EMBEDDED


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """A process for which the hub is a port of this machine where nothing listens."""
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )


def test_two_tries_and_the_place_of_the_hub(tmp_path):
    done = python("-m", "zipr1.cli", "answer", "What?", "--model", "a/b", HF_HOME=str(tmp_path))
    assert done.returncode == 2 and done.stderr.count("thrown while requesting") == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "a/b: there is no such folder, and from the hub, which does not answer at http" in last


def test_a_model_in_the_cache_is_loaded(tmp_path):
    publish(tmp_path / "hub", "owner/tiny", EMBEDDED["zipr1/tiny"], "main")
    code = "import zipr1; print(zipr1.load('owner/tiny')[0].config.model_type)"
    done = python("-c", code, HF_HOME=str(tmp_path))
    assert done.stdout.strip() == "qwen2_5_vl", done.stderr
    assert done.stderr.count("thrown while requesting") == 2
