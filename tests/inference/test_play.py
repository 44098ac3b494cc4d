"""The page of `zipr1 play`, driven through its HTTP interface."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image
from play_server import ROOT, served

from zipr1.inference.answer import answer
from zipr1.inference.config import AnswerConfig
from zipr1.lab.demo import write_video
from zipr1.tasks.motion import Motion

QUESTION = "What colour is the circle?"
IMAGE = str(ROOT / "docs/shapes.png")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    pytest.importorskip("gradio", reason="gradio is not installed: make play-test")
    with served(tmp_path_factory.mktemp("play")) as (url, _):
        yield url


@pytest.fixture
def ask(url, tmp_path):
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False, download_files=str(tmp_path / "answers"))

    def ask(
        question: str, *files: str, p: float = 0.9, scope: str = "attention", compare: bool = False
    ) -> tuple:
        """(sparse answer, dense answer, paths of the pages, the numbers)."""
        uploads = [{kind_of(file): handle_file(file), "caption": None} for file in files]
        sparse, dense, pages, numbers = client.predict(
            uploads, question, p, scope, compare, api_name="/answer"
        )
        return sparse, dense, [page["image"] for page in pages["value"]], numbers

    return ask


def kind_of(file: str) -> str:
    return "video" if file.endswith(".mkv") else "image"


def ratio(numbers: str) -> float:
    return float(re.search(r"token ratio ([\d.]+)%", numbers)[1]) / 100


def test_an_image_is_answered_as_by_the_command(ask, tmp_path):
    picture = tmp_path / "kept.png"
    settings = {"p": 0.9, "scope": "layer", "picture": str(picture)}
    expected = answer(AnswerConfig(QUESTION, [IMAGE], **settings))
    sparse, dense, pages, numbers = ask(QUESTION, IMAGE, scope="layer", compare=True)
    assert sparse == expected["answer"] and dense == "orange"
    assert ratio(numbers) == round(expected["token_ratio"], 3)
    counts = " ".join(map(str, expected["kept_tokens_per_layer"]))
    assert f"kept per layer {counts}\n" in numbers
    assert len(pages) == 1 + 5  # all layers, and each
    assert np.array_equal(np.asarray(Image.open(pages[0])), np.asarray(Image.open(picture)))
    cells = dict(re.findall(r"^\| (prefill|per token|tokens) \| (.+) \|$", numbers, re.MULTILINE))
    assert cells["tokens"].endswith(" | 100.0%")
    for name in ("prefill", "per token"):
        assert re.fullmatch(r"[\d.]+ ms \| [\d.]+ ms", cells[name])


def test_a_video_and_several_images(ask, tmp_path):
    write_video(Motion().example("test", 0).frames, tmp_path / "motion.mkv")
    _, dense, pages, numbers = ask("What moves?", str(tmp_path / "motion.mkv"))
    assert dense == "" and len(pages) == 6 and Image.open(pages[0]).width == 960
    assert "dense" not in numbers
    _, _, pages, numbers = ask(QUESTION, IMAGE, IMAGE)
    assert " of 128\n" in numbers  # visual tokens of both
    alone = Image.open(ask(QUESTION, IMAGE)[2][0])
    assert Image.open(pages[0]).width == 2 * alone.width


def test_p_is_what_is_kept(ask):
    low, high, all_tokens = (ratio(ask(QUESTION, IMAGE, p=p)[3]) for p in (0.5, 0.9, 1))
    assert low < high < all_tokens == 1


def test_bad_input_is_a_message_and_the_server_lives(ask, tmp_path):
    from gradio_client.exceptions import AppError

    broken, text = tmp_path / "broken.png", tmp_path / "notes.png"
    broken.write_bytes((ROOT / "docs/shapes.png").read_bytes()[:300])
    text.write_text("no <b>image</b>")
    for files, question, message in (
        ([], QUESTION, "no image or video: upload one"),
        ([IMAGE], "  ", "the question is empty: ask something"),
        ([str(broken)], QUESTION, "broken.png: "),
        ([str(text)], QUESTION, "notes.png: a text file ('no &lt;b&gt;image&lt;/b&gt;')"),
    ):
        with pytest.raises(AppError) as refused:
            ask(question, *files)
        assert message in str(refused.value)
        assert str(tmp_path) not in str(refused.value) and "uploads" not in str(refused.value)
    assert ask("-", IMAGE)[0]  # a question like any other: nothing is read from the terminal
    assert ask(QUESTION, IMAGE)[0] == "orange"


def test_it_listens_on_this_machine_alone_and_reports_nothing(url):
    port = int(url.rpartition(":")[2])
    with socket.socket() as one:
        assert one.connect_ex(("127.0.0.1", port)) == 0
    with socket.socket() as other:  # also an address of this machine, as of 0.0.0.0
        assert other.connect_ex(("127.0.0.2", port)) != 0
    with urllib.request.urlopen(f"{url}/config") as config:
        found = json.load(config)
    assert found["analytics_enabled"] is False and not found.get("share_url")


def test_ctrl_c_ends_it_and_a_taken_port_is_named(url, tmp_path):
    from gradio_client import Client, handle_file

    port = url.rpartition(":")[2]
    command = [sys.executable, "-m", "zipr1.cli", "play", "zipr1/tiny", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and port in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    with served(tmp_path, "--p", "0.8") as (own, server):
        with urllib.request.urlopen(f"{own}/config") as config:
            values = [one["props"].get("value") for one in json.load(config)["components"]]
        assert 0.8 in values  # where the slider starts
        client = Client(own, verbose=False, download_files=str(tmp_path / "answers"))
        files = [{"image": handle_file(IMAGE), "caption": None}]
        client.predict(files, QUESTION, 0.8, "attention", False, api_name="/answer")
        assert len(list((tmp_path / "uploads").rglob("*.png"))) == 1 + 6  # and the pages
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not list((tmp_path / "uploads").rglob("*.png"))  # nothing stays


def test_without_gradio_the_command_that_installs_it_is_named():
    code = "import sys; sys.modules['gradio'] = None; from zipr1.cli.main import main; "
    code += "main(['play', 'zipr1/tiny'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == ("zipr1: error: gradio is needed for `zipr1 play`: pip install 'zipr1[play]'")
