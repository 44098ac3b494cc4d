"""The documentation names things that exist, and its commands and Python blocks work."""

import ast
import os
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from zipr1.cli.main import parse

ROOT = Path(__file__).parents[2]
PAGES = [
    *(page for page in (ROOT / "docs").rglob("*.md") if "archive" not in page.parts),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "adapters/smollm2/README.md",
]
NAMES = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
FILES = {"zipr1.json", "zipr1.ipynb"}  # with the form of a name
FOLDERS = "zipr1|tests|examples|experiments|benchmarks|docs|adapters"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def resolve(name: str) -> None:
    """Raises AttributeError or ImportError if nothing has this dotted name."""
    parts = name.split(".")
    found = import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            if part in getattr(found, "__dataclass_fields__", {}):
                return
            found = import_module(".".join(parts[:i]))


@pytest.mark.parametrize("page", NAMES)
def test_every_name_and_path_on_a_page_exists(page):
    text = NAMES[page]
    for name in set(re.findall(r"\bzipr1(?:\.[A-Za-z_]\w*)+", text)) - FILES:
        resolve(name)
    for path in set(re.findall(rf"(?<![\w./])(?:{FOLDERS})/[\w./]*\w", text)) - {"zipr1/tiny"}:
        assert (ROOT / path).exists(), path


def test_a_name_that_does_not_exist_is_found():
    resolve("zipr1.sparsity.budget.top_p_count")
    with pytest.raises((AttributeError, ImportError)):
        resolve("zipr1.sparsity.budget.no_such_function")


def commands(text: str) -> list[str]:
    """The `zipr1 ...` lines of the blocks without a language, without their comments."""
    joined = "\n".join(blocks(text, "")).replace("\\\n", " ")
    lines = (line.partition("    #")[0].strip() for line in joined.splitlines())
    lines = (re.sub(r"^.*-m zipr1\.cli ", "zipr1 ", line) for line in lines)
    return [line for line in lines if line.startswith("zipr1 ") and "--help" not in line]


@pytest.mark.parametrize("page", [page for page, text in NAMES.items() if commands(text)])
def test_the_commands_on_a_page_can_be_parsed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = "data: rows.json\nprobe_data: other.json\n"
    (tmp_path / "my.yaml").write_text(recipe)  # the reader's own recipe
    for command in commands(NAMES[page]):
        parse(shlex.split(command)[1:])


@pytest.mark.parametrize("page", ["docs/quickstart.md", "docs/contributing.md"])
def test_the_first_python_block_runs(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(compile(blocks(NAMES[page], "python")[0], page, "exec"), names)
    assert 0 < names["trace"].token_ratio.item() < 1


def test_decisions_are_numbered_without_holes_and_every_cited_one_exists():
    text = NAMES["docs/concepts/decisions.md"]
    numbers = re.findall(r"^##+ (\d+)\.(\d*)", text, re.MULTILINE)
    expected = (0, 0)
    for topic, number in numbers:
        expected = (expected[0], expected[1] + 1) if number else (expected[0] + 1, 0)
        assert (int(topic), int(number or 0)) == expected
    anchors = re.findall(r'<a id="([\w-]+)">', text)
    assert len(anchors) == len(set(anchors)) == sum(bool(number) for _, number in numbers)
    sources = [path for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.*")]
    for path in sources:
        if path.suffix in (".py", ".yaml", ".md") and "archive" not in path.parts:
            source = path.read_text()
            assert not set(re.findall(r"decisions\.md#([\w-]+)", source)) - {*anchors}, path
            assert not re.search(r"\bdecisions? \d", source), path


def test_the_front_pages_are_short():
    for page in ("README.md", "docs/results.md"):
        assert NAMES[page].count("\n") <= 150, page


def test_the_site_fetches_nothing():
    """Where the site is built, no page loads a script, style, font or image from elsewhere."""
    site = ROOT / "site"
    if not site.is_dir():
        pytest.skip("no site: `make docs` builds it")
    for folder, _, files in os.walk(site):
        for name in files:
            if name.endswith((".html", ".css")):
                text = (Path(folder) / name).read_text()
                loads = re.findall(
                    r"<(?:script|img|source)[^>]*\ssrc=[\"']?(https?:[^\"' >]+)", text
                )
                loads += re.findall(r"<link[^>]*stylesheet[^>]*href=[\"']?(https?:[^\"' >]+)", text)
                loads += re.findall(r"url\([\"']?(https?:[^\"')]+)", text)
                assert not loads, (name, loads)


def test_files_and_functions_are_short():
    """contributing.md: no file of the package above 300 lines, no function above 60."""
    long = []
    for path in sorted((ROOT / "zipr1").rglob("*.py")):
        text = path.read_text()
        if text.count("\n") > 300:
            long.append(str(path))
        long += [
            f"{path}: {node.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.end_lineno - node.lineno >= 60
        ]
    assert not long
