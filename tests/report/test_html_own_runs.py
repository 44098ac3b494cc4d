"""The page of `zipr1 report` about runs on the user's own data, trainings and benches."""

import base64
import io
import json
import re

import data_rows
import numpy as np
import pytest
from command_line import run
from PIL import Image
from report_pages import data_of, page_of, refused
from task_rows import shapes_rows, write_jsonl
from train_runs import SMALL
from train_runs import run as train

cache = data_rows.cache  # fixture
COLUMNS = ("--columns", "prompt=question")


def pixels(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)


def same(shown: np.ndarray, path) -> bool:
    return np.abs(shown - np.asarray(Image.open(path).convert("RGB"), float)).mean() < 6


@pytest.fixture
def own_data(capsys, tmp_path):
    """An evaluation of four rows: of one image, of two, of a large one, and of none."""
    rows = shapes_rows(tmp_path, 4, prompt="question")
    for row in rows:
        row["images"] = [row.pop("image")]
    rows[1]["images"].append(rows[0]["images"][0])
    with Image.open(tmp_path / "test-2.png") as image:
        image.resize((1200, 1200)).save(tmp_path / "test-2.png")
    rows[3]["images"] = []
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    flags = ("--data", data, "--methods", "full,zipvl", "--p", "0.8", "--threads", "1")
    flags += ("--max_pixels", "16384", "--batch_size", "1", "--output_dir", str(tmp_path / "out"))
    status, _, err = run(capsys, "eval", "zipr1/tiny", *flags, *COLUMNS)
    assert status == 0, err
    return tmp_path, rows


def questions_of(folder) -> list[dict]:
    return data_of(page_of(folder / "out"))["questions"]


def by_number(folder) -> dict[int, dict]:
    """Number of the row -> its question."""
    found = {int(re.search(r"\d+", one["id"])[0]): one for one in questions_of(folder)}
    assert sorted(found) == [0, 1, 2, 3]
    return found


def test_questions_on_own_data_have_their_images(own_data):
    folder, rows = own_data
    found = by_number(folder)
    for number, one in found.items():
        assert one["question"] == rows[number]["question"]
        assert one["expected"] == rows[number]["answer"]
    assert found[0]["columns"] == 1 and same(pixels(found[0]["picture"]), folder / "test-0.png")
    both = pixels(found[1]["picture"])
    side = both.shape[1] // 2
    assert found[1]["columns"] == 2
    assert same(both[:, :side], folder / "test-1.png")
    assert same(both[:, side:], folder / "test-0.png")
    assert max(pixels(found[2]["picture"]).shape) == 480
    assert found[3]["missing"] == "The question has no image."
    kept = found[0]["answers"]["1"]
    assert kept["grid"] and kept["kept"]  # drawn over it


def test_rows_that_have_changed_since_say_so(own_data):
    folder, rows = own_data
    (folder / "test-0.png").unlink()
    rows[2]["answer"] = "another"
    write_jsonl(folder / "rows.jsonl", rows)
    found = by_number(folder)
    assert re.search(r"^No image: .*test-0\.png: no such file", found[0]["missing"])
    assert "another answer today" in found[2]["missing"]
    write_jsonl(folder / "rows.jsonl", rows[:1])
    missing = [one["missing"] for one in questions_of(folder)]
    assert sum("has no such row today" in one for one in missing) == 3
    (folder / "rows.jsonl").unlink()
    assert all(
        re.search(r"^No image: .*rows\.jsonl: no such file", one["missing"])
        for one in questions_of(folder)
    )


def test_rows_of_two_data_sets_stay_apart(capsys, own_data):
    """The same names of rows and the same answers, other images."""
    folder, rows = own_data
    other = folder / "other"
    other.mkdir()
    with Image.open(folder / "test-0.png") as image:
        image.rotate(90).save(other / "test-0.png")
    data = write_jsonl(other / "rows.jsonl", rows[:1])
    flags = ("--data", data, "--methods", "full", "--threads", "1")
    flags += ("--output_dir", str(other / "out"))
    assert run(capsys, "eval", "zipr1/tiny", *flags, *COLUMNS)[0] == 0
    shown = data_of(page_of(folder / "out", other / "out"))["questions"]
    first, second = (one for one in shown if one["id"] == shown[0]["id"])
    assert same(pixels(first["picture"]), folder / "test-0.png")
    assert same(pixels(second["picture"]), other / "test-0.png")
    assert len(first["answers"]) == 2 and len(second["answers"]) == 1


def test_samples_of_a_training_have_their_images(tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", shapes_rows(tmp_path, 3, "train"))
    settings = {name: value for name, value in SMALL.items() if name != "tasks"}
    settings |= {"data": rows, "probe_data": rows, "max_steps": 1, "probe_every": 1}
    folder = tmp_path / "own"
    done = train(settings, folder)
    assert done.returncode == 0, done.stderr
    samples = [json.loads(line) for line in (folder / "samples.jsonl").open()]
    found = r'<img class="sample" src="([^"]+)" alt="The image of ([^"]+)"'
    shown = re.findall(found, page_of(folder))
    assert [id for _, id in shown] == [row["id"] for row in samples] and len(shown) >= 4
    for uri, id in shown:
        (number,) = re.findall(r"\d+", id)
        assert same(pixels(uri), tmp_path / f"train-{number}.png")


def test_a_folder_of_bench_has_its_table_and_plot(capsys, tmp_path):
    folder = tmp_path / "bench"
    flags = ("--tokens", "64", "--ratios", "0.25", "--repeats", "1", "--threads", "1")
    flags += ("--phases", "prefill", "--output_dir", str(folder))
    assert run(capsys, "bench", *flags)[0] == 0
    page = page_of(folder)
    saved = json.loads((folder / "bench.json").read_text())
    table = re.search(r"<h3>Time and memory</h3>.*?</table>", page, re.DOTALL)[0]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert heads[:3] == ["rule", "ratio", "scope"]
    assert {"dense ms", "sparse ms", "speedup"} <= {*heads}
    assert table.count("<tr>") == 1 + len(saved["rows"])
    for row in saved["rows"]:
        assert f"<td>{row['speedup']:.4g}</td>" in table
    note = re.search(r"The same in all rows:(.*?)</p>", page, re.DOTALL)[1]
    assert "phase prefill" in note and "tokens 64" in note and "dtype float32" in note
    plot = re.search(r'<img class="plot" src="data:image/png;base64,([^"]+)"', page)[1]
    assert base64.b64decode(plot) == (folder / "bench.png").read_bytes()
    assert saved["commit"] in page
    for name, content, kind in (
        ("serve.json", {"rows": [{"tokens": 64, "ttft_ms": 1.5, "ok": None}]}, "bench serve"),
        ("bench_train.json", {"rows": []}, "bench_train"),
    ):
        document = {"kind": kind, "version": 1} | content
        (folder / name).write_text(json.dumps(document))
    page = page_of(folder)
    assert re.search(r"<h3>Time of the server</h3>.*<td>1\.5</td><td>\u2013</td>", page, re.DOTALL)
    assert "bench_train.json: no &#39;rows&#39;" in page
    (folder / "bench.json").write_text("{}")
    (folder / "serve.json").unlink()
    assert "no 'rows': not a file of `zipr1 bench`" in refused(capsys, folder)


def test_a_run_has_links_to_its_folder_and_files(capsys, own_data):
    folder, _ = own_data
    odd = folder / "a run, 50 %"
    (folder / "out").rename(odd)
    page = page_of(odd)  # which writes <odd>/out/report.html
    links = dict(re.findall(r'<a href="([^"#][^"]*)">([^<]+)</a>', page))
    assert links == {
        "../": str(odd),
        "../table.json": "table.json",
        "../records.jsonl": "records.jsonl",
    }
    elsewhere = folder / "pages" / "report.html"
    elsewhere.parent.mkdir()
    assert run(capsys, "report", str(odd), "-o", str(elsewhere))[0] == 0
    assert '<a href="../a%20run%2C%2050%20%25/records.jsonl">' in elsewhere.read_text()
