"""The page of `zipr1 report`: what it holds, what it refuses, and what a browser makes of it."""

import base64
import html
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from zipr1.cli import main
from zipr1.evaluate import evaluate, examples_of, packed, read_records, rule_of
from zipr1.inputs import prepare, visual_grid
from zipr1.model import load_vision, sparse
from zipr1.picture import layer_masks

P, QUESTIONS = 0.7, 6
HOSTILE = "</script><script>document.title = 'owned'</script><!--<script><img src=x onerror=\"document.title = 'owned'\">"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real evaluation."""
    folder = tmp_path_factory.mktemp("runs") / "eval"
    flags = ["--tasks", "shapes,motion", "--questions", str(QUESTIONS), "--methods", "full,zipvl", "--p", str(P)]
    main(["eval", "zipr1/tiny", *flags, "--curve", "0.7,0.9", "--threads", "1", "--output_dir", str(folder)])
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """The run again, to be changed."""
    return shutil.copytree(run, tmp_path / "copy")


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "records.jsonl").open()]


def write(folder, rows: list[dict]) -> None:
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def page_of(*arguments) -> str:
    main(["report", *map(str, arguments), "-o", str(arguments[0] / "out" / "report.html")])
    return (arguments[0] / "out" / "report.html").read_text()


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, arguments)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    return said


def unpacked(row: dict) -> np.ndarray:
    """(layers, T, H, W) of a record."""
    bits = [np.unpackbits(np.frombuffer(base64.b64decode(layer), np.uint8)) for layer in row["kept"]]
    return np.stack([layer[: np.prod(row["grid"])].reshape(row["grid"]) for layer in bits])


def disagreeing(rows: list[dict]) -> set[str]:
    full = {row["id"]: row["answer"] for row in rows if row["method"] == "full"}
    return {row["id"] for row in rows if row["answer"] != full[row["id"]]}


def test_records_hold_what_the_model_kept(run):
    """Bit by bit what the trace of the same batch says."""
    model, processor = load_vision("zipr1/tiny")
    for task in ("shapes", "motion"):
        examples = examples_of([task], "test", QUESTIONS)
        inputs = prepare(processor, examples)
        with sparse(model, rule_of("zipvl", P, 1.0)) as trace:
            model(**inputs)
        rows = [row for row in rows_of(run) if row["task"] == task and row["method"] == "zipvl"]
        for i, (example, row) in enumerate(zip(examples, rows, strict=True)):
            visual = inputs["mm_token_type_ids"][i].bool().numpy()
            masks = layer_masks([layer[i] for layer in trace.kept], visual, visual_grid(inputs, i, processor))
            assert row["id"] == example.id and (unpacked(row) == masks).all() and 0 < masks.mean() < 1
    assert all(row["kept"] is row["grid"] is None for row in rows_of(run) if row["method"] == "full")
    assert packed(np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 1], bool)) == base64.b64encode(bytes([0x80, 0x40])).decode()


def test_padding_does_not_shift_the_kept_tokens():
    """Prompts of unequal length are padded on the left: each row has its own visual tokens."""
    model, processor = load_vision("zipr1/tiny")
    examples = examples_of(["shapes"], "test", 3)
    assert prepare(processor, examples)["attention_mask"].sum(-1).unique().numel() > 1
    together = evaluate(model, processor, examples, rule_of("zipvl", P, 1.0), "zipvl", quiet=True)
    apart = [evaluate(model, processor, [one], rule_of("zipvl", P, 1.0), "zipvl", quiet=True)[0] for one in examples]
    assert [(one.grid, one.kept) for one in together] == [(one.grid, one.kept) for one in apart]


def test_the_page_holds_tables_curves_and_answers(run, capsys):
    page = page_of(run)
    assert re.search(r"report\.html: 0\.\d MB, 1 run, 12 of 12 questions to browse", capsys.readouterr().out)
    data, rows = data_of(page), rows_of(run)
    full, zipvl = {"name": "full", "full": None, "shorter": False}, {"name": "zipvl", "full": 0, "shorter": False}
    assert data["methods"] == [full, zipvl]
    shown = {question["id"]: question for question in data["questions"]}
    assert len(shown) == 2 * QUESTIONS
    for row in rows:
        answer = shown[row["id"]]["answers"]["0" if row["method"] == "full" else "1"]
        assert (answer["answer"], answer["right"], answer["kept"]) == (row["answer"], row["right"], row["kept"])
        assert answer["differs"] == (row["method"] == "zipvl" and row["id"] in disagreeing(rows))
    for example in examples_of(["shapes", "motion"], "test", QUESTIONS):
        question = shown[example.id]
        picture = Image.open(io.BytesIO(base64.b64decode(question["picture"].removeprefix("data:image/webp;base64,"))))
        first = np.asarray(example.image or example.frames[2], float)
        left = 0 if example.image else first.shape[1]  # of a clip's sheet the second tile: the third frame
        drawn = np.asarray(picture.convert("RGB"), float)[: first.shape[0], left : left + first.shape[1]]
        assert np.abs(drawn - first).mean() < 6 and question["question"] == example.question
    table = json.loads((run / "table.json").read_text())
    for row in table["rows"]:
        assert f"<b>{100 * row['accuracy']:.1f}</b>" in page
    assert table["commit"] in page and page.count("<svg") == 1 and ">token ratio, %" in page


def test_nothing_is_fetched(run):
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # of XML: no browser opens them
    page = page_of(run)
    assert set(re.findall(r"\w+://[^\s\"'<>)]+", page)) <= names
    assert not re.search(r"@import|<link|<script[^>]+src|<iframe", page)
    assert "default-src 'none'" in page


def test_hostile_text_stays_text(copy):
    clean = page_of(copy)
    write(copy, [row | {"answer": HOSTILE} for row in rows_of(copy)])
    table = json.loads((copy / "table.json").read_text())
    table["rows"][0]["method"] = table["command"] = table["config"]["model"] = HOSTILE
    (copy / "table.json").write_text(json.dumps(table))
    page = page_of(copy)
    for tag in ("<script", "</script", "<!--", "<img"):
        assert page.count(tag) == clean.count(tag), tag
    assert {one["answer"] for q in data_of(page)["questions"] for one in q["answers"].values()} == {HOSTILE}
    assert html.escape(HOSTILE).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page


def test_records_of_earlier_versions(copy):
    write(copy, [{name: value for name, value in row.items() if name not in ("grid", "kept")} for row in rows_of(copy)])
    assert all(record.kept is None for record in read_records(copy / "records.jsonl"))
    questions = data_of(page_of(copy))["questions"]
    assert len(questions) == 2 * QUESTIONS and all(question["picture"] for question in questions)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"task": "golf", "id": "golf/test/0/0"}, "not a question of the embedded tasks"),
        ({"id": "my own"}, "not a question of the embedded tasks"),
        ({"expected": "of another version"}, "draws another scene today"),
        ({"id": "shapes/test/0/999"}, "draws another scene today"),
    ],
)
def test_what_cannot_be_drawn_again_says_so(copy, change, word):
    first, *others = [row for row in rows_of(copy) if row["method"] == "full"]
    write(copy, [first | change, *others])
    without = [question for question in data_of(page_of(copy))["questions"] if "picture" not in question]
    assert len(without) == 1 and word in without[0]["missing"] and without[0]["answers"]["0"]["answer"] == first["answer"]


def test_disagreements_come_first(copy):
    rows = [row | {"answer": "same"} for row in rows_of(copy)]
    odd = {"shapes/test/4/", "motion/test/5/"}
    for row in rows:
        if row["method"] == "zipvl" and any(row["id"].startswith(start) for start in odd):
            row["answer"] = "other"
        if row["method"] == "zipvl" and row["id"].startswith("shapes/test/2/"):
            row["answer"] = " Same."  # the metric takes it for the same
    write(copy, rows)
    page = page_of(copy, "--per_task", "2")
    starts = [re.match(r"\w+/test/\d+/", question["id"])[0] for question in data_of(page)["questions"]]
    assert starts == ["shapes/test/4/", "shapes/test/0/", "motion/test/5/", "motion/test/0/"]
    assert "4 of 12 questions are here" in page


def test_several_runs_and_every_kind_of_folder(copy, tmp_path):
    """A demo, a training and a suite beside an evaluation without Full of its own."""
    demo, suite, training = tmp_path / "demo", tmp_path / "suite", tmp_path / "train"
    (demo / "paper").mkdir(parents=True)
    suite.mkdir()
    rows, table = rows_of(copy), json.loads((copy / "table.json").read_text())
    for kind, method in (("full", "full"), ("exact", "zipvl")):
        lines = [json.dumps(row) + "\n" for row in rows if row["method"] == method]
        (demo / f"records-{kind}.jsonl").write_text("".join(lines))
    write(copy, [row for row in rows if row["method"] == "zipvl"])
    (demo / "table.json").write_text(json.dumps(table["rows"]))
    (demo / "curve.json").write_text(json.dumps({"before": json.loads((copy / "curve.json").read_text())}))
    (demo / "paper" / "metrics.jsonl").write_text('{"step": 0, "probe/accuracy": 0.5}\n{"step": 1, "rewards/accuracy": 1}\n')
    shutil.copytree(demo / "paper", training)
    (training / "run.json").write_text(json.dumps({"config": {}} | {k: table[k] for k in ("versions", "commit", "device")}))
    cell = {"score": [58.2], "low": [57.0], "high": [59.0]}
    cell |= {"difference": [-0.3], "difference_low": [-1.0], "difference_high": [0.4]}
    entries = [{"table": 2, "method": "ZipVL", "token_ratio": 0.71, "benchmarks": {"MLVU-dev": cell, "VideoMME": None}}]
    (suite / "tables.json").write_text(json.dumps({"rows": entries, "failed": {"ZipVL, VideoMME": "a <reason>"}}))
    page = page_of(copy, demo, suite, training)
    methods = data_of(page)["methods"]
    assert methods == [
        {"name": f"{copy}: zipvl", "full": 1, "shorter": False},
        {"name": f"{demo}: Full", "full": None, "shorter": False},
        {"name": f"{demo}: ZipR1 (exact)", "full": 1, "shorter": False},
    ]
    assert page.count("<svg") == 4  # two curves, two trainings
    assert "58.2 <small>(57.0 to 59.0) [-0.3, -1.0 to +0.4]</small>" in page and "71.0 <small>(1 of 2)</small>" in page
    assert "<td>failed</td>" in page and "a &lt;reason&gt;" in page


def test_unknown_folders_are_refused(capsys, tmp_path, copy):
    (tmp_path / "empty").mkdir()
    assert "empty: nothing to report in it" in (said := refused(capsys, copy, tmp_path / "empty"))
    assert "records*.jsonl" in said and "metrics.jsonl" in said
    assert "none: no such folder" in refused(capsys, tmp_path / "none")
    assert "runs" in refused(capsys)
    assert "per_task=0" in refused(capsys, copy, "--per_task", "0")
    with (copy / "records.jsonl").open("a") as file:
        file.write('{"task": "shapes"')
    assert f"records.jsonl:{4 * QUESTIONS + 1}: not a record" in refused(capsys, copy)
    (copy / "table.json").write_text("{")
    assert "table.json: not JSON" in refused(capsys, copy)


CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(CHROMIUM is None, reason="no `chromium` on the path: apt-get install chromium")
CARD = re.compile(r'<article data-id="([^"]*)">')


def opened(page, hash: str, profile, *flags: str) -> str:
    """What a headless browser prints; it may not reach a network."""
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=5000", *flags, f"file://{page}#{hash}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def places(dom: str, kind: str) -> set[tuple[int, int]]:
    """(x, y) of the cells drawn with a class."""
    return {(int(x), int(y)) for x, y in re.findall(rf'<rect x="(\d+)" y="(\d+)"[^>]* class="{kind}"', dom)}


@pytest.fixture
def mixed(copy):
    """The run as if of each task Full had the questions 0, 1, 3, 4 right and ZipVL 0, 2, 4."""
    seen: dict[tuple, int] = {}
    rows = rows_of(copy)
    for row in rows:
        number = seen[row["task"], row["method"]] = seen.get((row["task"], row["method"]), -1) + 1
        right = number % 3 != 2 if row["method"] == "full" else number % 2 == 0
        row |= {"right": right, "answer": row["expected"] if right else "other"}
    write(copy, rows)
    page_of(copy)
    return copy


def ids(folder, method: str, *numbers: int, tasks: tuple[str, ...] = ("shapes", "motion")) -> list[str]:
    """Of the questions with these numbers of each task, sorted."""
    rows = [row for row in rows_of(folder) if row["method"] == method]
    return sorted([row["id"] for row in rows if row["task"] == task][number] for task in tasks for number in numbers)


@browser
@pytest.mark.slow
def test_a_browser_shows_the_cards_that_the_hash_asks_for(mixed, tmp_path):
    page = mixed / "out" / "report.html"
    views = {
        "": ids(mixed, "zipvl", *range(QUESTIONS)),
        "method=1&show=disagree": ids(mixed, "zipvl", 1, 2, 3),
        "method=1&show=lost": ids(mixed, "zipvl", 1, 3),
        "method=1&show=gained": ids(mixed, "zipvl", 2),
        "method=1&show=wrong&task=motion": ids(mixed, "zipvl", 1, 3, 5, tasks=("motion",)),
        "method=0&show=right&text=SHAPES": ids(mixed, "full", 0, 1, 3, 4, tasks=("shapes",)),
    }
    for hash, expected in views.items():
        assert sorted(CARD.findall(opened(page, hash, tmp_path / "a", "--dump-dom"))) == expected, hash


# Before the end of the page: what a reader does, by the events of the page's own controls, and what it then says.
ACTS = """<script>
const field = (name) => document.getElementById("filters").elements[name];
const said = [];
function tell() {
  const cards = [...document.querySelectorAll("article")].map((card) => card.dataset.id);
  const off = ["previous", "next"].filter((id) => document.getElementById(id).disabled);
  said.push({ cards, off, count: document.getElementById("count").textContent, hash: location.hash });
}
const enter = (name, value) => {
  field(name).value = value;
  field(name).dispatchEvent(new Event("input", { bubbles: true }));
  tell();
};
const press = (id) => { document.getElementById(id).click(); tell(); };
tell(); press("next"); press("previous"); press("next");
enter("show", "lost"); enter("show", "gained"); enter("text", "golf/test/5/"); enter("text", "");
enter("show", "all"); enter("layer", "2");
document.querySelector("article .answers button").click(); tell();
enter("method", "2");
document.body.append(Object.assign(document.createElement("pre"), { id: "said", textContent: JSON.stringify(said) }));
</script>"""


@browser
@pytest.mark.slow
def test_a_browser_turns_pages_and_filters_when_told_to(copy, tmp_path):
    """30 questions: Full has those with an even number right, ZipVL those that three divides; Downsample's are shorter."""
    whole, sparse = rows_of(copy)[0], next(row for row in rows_of(copy) if row["method"] == "zipvl")
    rows = []
    for method, divisor, row in (("full", 2, whole), ("zipvl", 3, sparse), ("Downsample", 1, whole | {"token_ratio": 0.4})):
        for i in range(30):
            right = i % divisor == 0
            own = {
                "task": "golf",
                "id": f"golf/test/{i}/0",
                "method": method,
                "right": right,
                "answer": "yes" if right else "no",
            }
            rows.append(row | own)
    write(copy, rows)
    page_of(copy)
    page = copy / "out" / "report.html"
    page.write_text(page.read_text().replace("</body>", ACTS + "</body>"))
    dom = opened(page, "method=1", tmp_path / "e", "--dump-dom")
    said = json.loads(html.unescape(re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)[1]))
    start, second, back, _, lost, gained, searched, again, all_again, layer, full, shorter = said
    assert len(start["cards"]) == len(back["cards"]) == 24 and start["cards"] == back["cards"] and start["off"] == ["previous"]
    assert len(second["cards"]) == 6 and second["off"] == ["next"] and not {*second["cards"]} & {*start["cards"]}
    assert second["count"] == "Questions 25 to 30 of 30" and "page=2" in second["hash"]

    def number(cards: list[str]) -> list[int]:
        return sorted(int(card.split("/")[2]) for card in cards)

    assert number(lost["cards"]) == [i for i in range(30) if i % 2 == 0 and i % 3] and "page=1" in lost["hash"]
    assert number(gained["cards"]) == number(again["cards"]) == [i for i in range(30) if i % 2 and i % 3 == 0]
    assert searched["cards"] == [] and searched["count"].startswith("No question")  # 5 is neither lost nor gained
    assert len(all_again["cards"]) == 24 and "layer=2" in layer["hash"] and "method=0" in full["hash"]
    assert "method=2" in shorter["hash"] and "the prompt was shortened to 40 % of Full's" in dom
    assert "run it again to see them" not in dom.split('<script type="application/json"')[0]  # of the cards


@browser
@pytest.mark.slow
def test_a_browser_draws_the_tokens_that_were_kept(run, tmp_path):
    """Outlined and dimmed are the cells that picture.py outlines and dims: of all layers, and of one."""
    page_of(run)
    for task in ("shapes", "motion"):
        row = next(row for row in rows_of(run) if row["method"] == "zipvl" and row["task"] == task)
        masks = unpacked(row)
        _, _, height, width = masks.shape
        for layer, share in ((0, masks.mean(0)), (2, masks[1])):
            at = {True: set(), False: set()}
            for (frame, y, x), kept in np.ndenumerate(share >= 0.5):
                at[bool(kept)].add((x + frame % 2 * width, y + frame // 2 * height))
            hash = f"method=1&text={row['id']}&layer={layer}"
            dom = opened(run / "out" / "report.html", hash, tmp_path / "b", "--dump-dom")
            assert places(dom, "kept") == at[True] and at[True] and at[False] <= places(dom, "dropped")
            assert len(CARD.findall(dom)) == 1


@browser
@pytest.mark.slow
def test_a_browser_runs_nothing_of_an_answer(copy, tmp_path):
    write(copy, [row | {"answer": HOSTILE} for row in rows_of(copy)])
    page_of(copy)
    dom = opened(copy / "out" / "report.html", "", tmp_path / "c", "--dump-dom")
    assert re.search(r"<title>(.*?)</title>", dom)[1].startswith("zipr1 report") and len(CARD.findall(dom)) == 2 * QUESTIONS
    assert html.escape(HOSTILE, quote=False) in dom


@browser
@pytest.mark.slow
def test_a_screenshot_is_not_blank(run, tmp_path):
    page_of(run)
    shots, gold = {}, {}
    for name, method, scheme in (("plain", 0, 1), ("light", 1, 1), ("dark", 1, 0)):  # plain: Full, over which nothing is drawn
        picture = tmp_path / f"{name}.png"
        flags = (f"--screenshot={picture}", "--window-size=1200,2400", f"--blink-settings=preferredColorScheme={scheme}")
        opened(run / "out" / "report.html", f"method={method}", tmp_path / "d", *flags)
        shots[name] = np.asarray(Image.open(picture).convert("RGB")).astype(int)
        gold[name] = (shots[name] == (255, 200, 0)).all(-1).sum()
        assert len(np.unique(shots[name] @ (65536, 256, 1))) > 1000
    assert min(gold["light"], gold["dark"]) > 3000 > 300 > gold["plain"]  # some in the legend
    assert shots["light"][5, 5].min() > 230 and shots["dark"][5, 5].max() < 40
