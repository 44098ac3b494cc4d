"""The snippet of the README runs as it stands."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_ten_lines_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "tensor" in out and 0 < names["trace"].token_ratio.item() < 1


def test_every_file_of_the_map_exists():
    text = (ROOT / "README.md").read_text()
    listed = set(re.findall(r"^zipr1/(\w+\.py)", text, re.MULTILINE))
    there = {path.name for path in (ROOT / "zipr1").glob("*.py")}
    assert listed <= there and there - listed == {"__init__.py"}
