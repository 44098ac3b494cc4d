"""Settings from recipes and flags: types, nested names, and the words of a refusal."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from zipr1.common.errors import InputError
from zipr1.common.recipe import RECIPES, read_recipe, recipe_path
from zipr1.common.settings import merge


@dataclass
class Inner:
    depth: int = 1
    kind: Literal["a", "b"] = "a"


@dataclass
class Part:
    steps: int
    rate: float = 0.1


@dataclass
class Outer:
    name: str = "x"
    rate: float = 1.0
    limit: int | None = None
    names: list[str] = field(default_factory=list)
    inner: Inner = field(default_factory=Inner)
    parts: list[Part] = field(default_factory=list)


def read(tmp_path, text: str) -> Outer:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(Outer, path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate: 1e-3", Outer(rate=1e-3)),  # text in YAML 1.1
        ("rate: 2", Outer(rate=2)),
        ("limit: null", Outer()),
        ("inner: {depth: 3}", Outer(inner=Inner(3))),
        ("parts: [{steps: 2}, {steps: 3, rate: .5}]", Outer(parts=[Part(2), Part(3, 0.5)])),
        ("{}", Outer()),
    ],
)
def test_values(tmp_path, text, expected):
    assert read(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: x", "recipe.yaml: nam: no such setting; did you mean name?"),
        ("inner: {dept: 3}", "recipe.yaml: inner.dept: no such setting; did you mean depth?"),
        ("depth: 3", "recipe.yaml: depth: no such setting; did you mean inner.depth?"),
        ("inner: 3", "recipe.yaml: inner.3: expected settings, each as name: value"),
        ("inner: {kind: c}", "recipe.yaml: inner.kind: c: input should be 'a' or 'b'"),
        ("limit: true", "recipe.yaml: limit: True: input should be a valid integer"),
        ("limit: 1.0", "recipe.yaml: limit: 1.0: input should be a valid integer"),
        ("rate: .nan", "recipe.yaml: rate: nan: input should be a finite number"),
        ("rate: true", "recipe.yaml: rate: True: input should be a valid number"),
        ("name: 3", "recipe.yaml: name: 3: input should be a valid string"),
        ("names: [a, 1]", "recipe.yaml: names[1]: 1: input should be a valid string"),
        ("parts: [{rate: 1}]", "recipe.yaml: parts[0]: steps: has no default; set it"),
        ("parts: [{steps: x}]", "recipe.yaml: parts[0]: steps: x: input should be a valid integer"),
        ("parts: 3", "recipe.yaml: parts: 3: input should be a valid list"),
        ("rate: 1\nrate: 2", "rate is set more than once"),
        ("- 1", "not a recipe"),
        ("", "not a recipe"),
        ("rate: [", "not a YAML file"),
    ],
)
def test_refusals(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    assert message in str(error.value)


def test_a_long_value_is_cut(tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path, f"limit: {'long ' * 1000}")
    assert len(str(error.value)) < 300


def test_a_recipe_is_found_by_path_name_and_former_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = RECIPES / "tiny_demo.yaml"
    assert recipe_path("tiny_demo") == recipe_path("recipes/tiny_demo.yaml") == shipped
    (tmp_path / "tiny_demo").write_text("seed: 1\n")
    assert recipe_path("tiny_demo") == (tmp_path / "tiny_demo").relative_to(tmp_path)
    with pytest.raises(InputError, match=r"none: no such recipe; .*tiny_zipr1"):
        recipe_path("none")


def test_nested_values_merge_name_by_name():
    assert merge({"a": {"x": 1, "y": 1}, "b": 1}, {"a": {"y": 2}, "c": 3}) == {
        "a": {"x": 1, "y": 2},
        "b": 1,
        "c": 3,
    }
