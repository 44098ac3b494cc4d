"""mkdocs hooks: overview from the README, reference pages from the code, formulas as MathML.

No page needs a script or a font from elsewhere, so the site can be read offline.
"""

import html
import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the code that is documented is the code beside this folder
sys.path.insert(0, str(Path(__file__).parent))

import reference  # noqa: E402

SHIM = "https://unpkg.com/iframe-worker/shim"  # what the theme loads for search from file://
REPOSITORY_FILES = ("LICENSE", "CHANGELOG.md", "adapters/", "examples/", "benchmarks/")
PAGES = {
    "index.md": lambda: from_readme((ROOT / "README.md").read_text()),
    "archive/cases.md": lambda: merged((ROOT / "docs/archive").glob("cases_*.md")),
    "reference/cli.md": reference.command_line,
    "reference/configuration.md": reference.configuration,
    "reference/api.md": reference.api,
}


def on_files(files, config):
    """Adds the pages that are generated."""
    for name, write in PAGES.items():
        files.append(File.generated(config, name, content=write()))
    return files


def merged(pages) -> str:
    """One page of several, with their titles as sections."""
    texts = [re.sub(r"^#", "##", page.read_text(), flags=re.MULTILINE) for page in sorted(pages)]
    return "\n".join(["# Cases from the field\n", *texts])


def from_readme(text: str) -> str:
    """The README as the first page: links into docs/ become relative, others become plain text."""
    text = re.sub(r"(\]\(|src=\")docs/", r"\1", text)
    names = "|".join(map(re.escape, REPOSITORY_FILES))
    return re.sub(rf"\[([^\]]+)\]\((?:{names})[^)]*\)", r"\1", text)


def on_page_content(content, page, config, files):
    """Formulas, which arithmatex marks, as MathML, which browsers show without a script."""

    def formula(match: re.Match) -> str:
        block = match[1] == "div"
        latex = html.unescape(match[2]).strip().removeprefix("\\(").removesuffix("\\)")
        latex = latex.removeprefix("\\[").removesuffix("\\]")
        return convert(latex, display="block" if block else "inline")

    return re.sub(r'<(div|span) class="arithmatex">(.*?)</\1>', formula, content, flags=re.S)


def on_post_page(output, page, config):
    return output.replace(SHIM, get_relative_url("assets/iframe-worker.js", page.url))


def on_post_template(output_content, template_name, config):
    return output_content.replace(SHIM, "assets/iframe-worker.js")
