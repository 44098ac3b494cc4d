"""What a browser makes of the page of `zipr1 report`."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import report_pages
from PIL import Image
from report_pages import HOSTILE, QUESTIONS, page_of, rows_of, unpacked, write

copy, run = report_pages.copy, report_pages.run  # fixtures

CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no `chromium` on the path: apt-get install chromium"
)
CARD = re.compile(r'<article data-id="([^"]*)">')


def opened(page, hash: str, profile, *flags: str) -> str:
    """What a headless browser prints; it may not reach a network."""
    quiet = (
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    )
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        *quiet,
        f"--user-data-dir={profile}",
    ]
    command += ["--virtual-time-budget=5000", *flags, f"file://{page}#{hash}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def places(dom: str, kind: str) -> set[tuple[int, int]]:
    """(x, y) of the cells drawn with a class."""
    return {
        (int(x), int(y))
        for x, y in re.findall(rf'<rect x="(\d+)" y="(\d+)"[^>]* class="{kind}"', dom)
    }


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


def ids(
    folder, method: str, *numbers: int, tasks: tuple[str, ...] = ("shapes", "motion")
) -> list[str]:
    """Of the questions with these numbers of each task, sorted."""
    rows = [row for row in rows_of(folder) if row["method"] == method]
    return sorted(
        [row["id"] for row in rows if row["task"] == task][number]
        for task in tasks
        for number in numbers
    )


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
        assert sorted(CARD.findall(opened(page, hash, tmp_path / "a", "--dump-dom"))) == expected, (
            hash
        )


# Before the end of the page: what a reader does with its controls, and what it then shows.
ACTS = """<script>
const field = (name) => document.getElementById("filters").elements[name];
const said = [];
function tell() {
  const cards = [...document.querySelectorAll("article")].map((card) => card.dataset.id);
  const off = ["previous", "next"].filter((id) => document.getElementById(id).disabled);
  const count = document.getElementById("count").textContent;
  said.push({ cards, off, count, hash: location.hash });
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
const shown = { id: "said", textContent: JSON.stringify(said) };
document.body.append(Object.assign(document.createElement("pre"), shown));
</script>"""


@browser
@pytest.mark.slow
def test_a_browser_turns_pages_and_filters_when_told_to(copy, tmp_path):
    """30 questions: Full is correct on even numbers, ZipVL on multiples of three; Downsample's prompts
    are shorter."""
    whole, sparse = rows_of(copy)[0], next(row for row in rows_of(copy) if row["method"] == "zipvl")
    rows = []
    for method, divisor, row in (
        ("full", 2, whole),
        ("zipvl", 3, sparse),
        ("Downsample", 1, whole | {"token_ratio": 0.4}),
    ):
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
    assert (
        len(start["cards"]) == len(back["cards"]) == 24
        and start["cards"] == back["cards"]
        and start["off"] == ["previous"]
    )
    assert (
        len(second["cards"]) == 6
        and second["off"] == ["next"]
        and not {*second["cards"]} & {*start["cards"]}
    )
    assert second["count"] == "Questions 25 to 30 of 30" and "page=2" in second["hash"]

    def number(cards: list[str]) -> list[int]:
        return sorted(int(card.split("/")[2]) for card in cards)

    assert (
        number(lost["cards"]) == [i for i in range(30) if i % 2 == 0 and i % 3]
        and "page=1" in lost["hash"]
    )
    assert (
        number(gained["cards"])
        == number(again["cards"])
        == [i for i in range(30) if i % 2 and i % 3 == 0]
    )
    assert searched["cards"] == [] and searched["count"].startswith(
        "No question"
    )  # 5 is neither lost nor gained
    assert (
        len(all_again["cards"]) == 24 and "layer=2" in layer["hash"] and "method=0" in full["hash"]
    )
    assert "method=2" in shorter["hash"] and "the prompt was shortened to 40 % of Full's" in dom
    assert (
        "run it again to see them" not in dom.split('<script type="application/json"')[0]
    )  # of the cards


@browser
@pytest.mark.slow
def test_a_browser_draws_the_tokens_that_were_kept(run, tmp_path):
    """The page outlines and dims the cells that overlay.py does: of all layers, and of one."""
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
            assert (
                places(dom, "kept") == at[True] and at[True] and at[False] <= places(dom, "dropped")
            )
            assert len(CARD.findall(dom)) == 1


@browser
@pytest.mark.slow
def test_a_browser_runs_nothing_of_an_answer(copy, tmp_path):
    write(copy, [row | {"answer": HOSTILE} for row in rows_of(copy)])
    page_of(copy)
    dom = opened(copy / "out" / "report.html", "", tmp_path / "c", "--dump-dom")
    assert (
        re.search(r"<title>(.*?)</title>", dom)[1].startswith("zipr1 report")
        and len(CARD.findall(dom)) == 2 * QUESTIONS
    )
    assert html.escape(HOSTILE, quote=False) in dom


@browser
@pytest.mark.slow
def test_a_screenshot_is_not_blank(run, tmp_path):
    page_of(run)
    shots, gold = {}, {}
    for name, method, scheme in (
        ("plain", 0, 1),
        ("light", 1, 1),
        ("dark", 1, 0),
    ):  # plain: Full, over which nothing is drawn
        picture = tmp_path / f"{name}.png"
        flags = (
            f"--screenshot={picture}",
            "--window-size=1200,2400",
            f"--blink-settings=preferredColorScheme={scheme}",
        )
        opened(run / "out" / "report.html", f"method={method}", tmp_path / "d", *flags)
        shots[name] = np.asarray(Image.open(picture).convert("RGB")).astype(int)
        gold[name] = (shots[name] == (255, 200, 0)).all(-1).sum()
        assert len(np.unique(shots[name] @ (65536, 256, 1))) > 1000
    assert min(gold["light"], gold["dark"]) > 3000 > 300 > gold["plain"]  # some in the legend
    assert shots["light"][5, 5].min() > 230 and shots["dark"][5, 5].max() < 40
