"""Thousands of command lines and recipes: each is refused in one line that names the place, or
every setting has the value that was written, and --print_config writes a recipe of the same."""

import random
import re
from contextlib import redirect_stdout
from dataclasses import asdict
from decimal import Decimal
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from fuzz import TEXTS, check, mutated, outcomes

from zipr1.cli.commands import COMMANDS, load
from zipr1.cli.main import main, parse
from zipr1.cli.parser import options_of
from zipr1.common.errors import InputError
from zipr1.common.recipe import RECIPES

SETTINGS = {name: load(command.settings) for name, command in COMMANDS.items()}
WORDS = ("a.png", "What is this?", "zipr1/tiny", "rows.json", "runs/a", "-", "", "x" * 300,
         "tiny_demo", "qwen_vl", "missing.yaml", "\ud83d", "*", "a=b")  # fmt: skip
FITS = {  # commands that take a shipped recipe
    "train": ("tiny_demo", "tiny_zipr1", "qwen_vl", "qwen_paper", "smollm2_zipr1", "tiny13_zipr1"),
    "eval": ("eval_paper", "eval_paper_qwen2_vl"),
    "pretrain": ("tiny_pretrain", "tiny13_pretrain"),
}


def plausible(hint: Any, default: Any, rng: random.Random) -> str:
    kinds = kinds_of(hint)
    for kind in kinds:
        if get_origin(kind) is Literal:
            return str(rng.choice(get_args(kind)))
    if int in kinds:
        return str(rng.choice([1, 2, 8, 0, default]))
    if float in kinds:
        return str(rng.choice([0.5, 1, 0.975, 1e-4, default]))
    return rng.choice(["true", "false"]) if bool in kinds else rng.choice(["a", "b/c", "x,y"])


def command_line(rng: random.Random) -> tuple[str, list[str], dict[str, str]]:
    """A command, its arguments, and what flags say: name -> text."""
    name = rng.choice(list(COMMANDS))
    command, options = COMMANDS[name], list(options_of(SETTINGS[name]))
    arguments, said = [], {}
    for option, hint, default, _ in rng.sample(options, min(len(options), rng.randrange(5))):
        if option in command.positional:
            continue
        hostile = rng.random() < 0.4
        text = rng.choice(TEXTS) if hostile else plausible(hint, default, rng)
        shown = option.replace("_", "-") if rng.random() < 0.2 else option
        if rng.random() < 0.05:
            shown = rng.choice([shown[:-1], shown + "s", shown.upper(), ""])
        ended = "--" in arguments or not shown  # then come words
        if not ended:
            said[option] = text
        if option in command.switches:
            said |= {} if ended else {option: "true"}
            arguments.append(f"--{shown}")
        elif rng.random() < 0.5 or text == "--":  # which ends the options where it stands alone
            arguments.append(f"--{shown}={text}")
        else:
            arguments += [f"--{shown}", text]
    words = [rng.choice(WORDS) for _ in range(len(command.positional) * (rng.random() < 0.9))]
    words += [rng.choice(WORDS)] * (rng.random() < 0.1)
    return name, [*name.split(), *words, *arguments], said


NULL = ("null", "~", "Null", "NULL", "")  # in YAML; as a flag only the first


def kinds_of(hint: Any) -> tuple:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def as_written(hint: Any, text: str, value: Any, nothing: tuple[str, ...]) -> bool:
    """Whether a setting of this type has the value that a person reads in `text`."""
    if value is None:
        return text in nothing and NoneType in kinds_of(hint)
    if isinstance(value, bool):
        return text.lower() in (("true", "yes", "on") if value else ("false", "no", "off"))
    if isinstance(value, int | float):
        number = re.fullmatch(r"[-+]?[0-9_]*\.?[0-9_]*([eE][-+]?[0-9]+)?", text)
        return bool(number) and Decimal(text.replace("_", "")) == Decimal(repr(value))
    if isinstance(value, list):
        found = text.split(",") if not text.startswith("[") else yaml.safe_load(text)
        return [str(one) for one in value] == [str(one) for one in found]
    return value == text


def value_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def printed(arguments: list[str]) -> bytes:
    """What a command writes to a terminal in UTF-8."""
    stream = TextIOWrapper(BytesIO(), encoding="utf-8")
    with redirect_stdout(stream):
        main(arguments)
    stream.flush()
    return stream.buffer.getvalue()


def accepted(config: Any, command: str, arguments: list[str], folder: str, seed: int) -> str:
    """Checks the settings that a command prints."""
    again = Path(folder) / f"{seed}.yaml"
    words = command.split()
    again.write_bytes(printed([*words, "--print_config", *arguments[len(words) :]]))
    _, other = parse([*command.split(), "--config", str(again)])
    again.unlink()
    return "accepted" if asdict(other) == asdict(config) else f"printed as {asdict(other)}"


def one_line(error: InputError, *names: str) -> str:
    """What is wrong with a message, or "refused"."""
    text = str(error)
    if len(text) > 1500 or not text.strip():
        return f"a message of {len(text)} characters: {text[:300]}"
    return "refused" if not names or any(name in text for name in names) else f"unnamed: {text}"


def try_flags(folder: str, seed: int) -> str:
    rng = random.Random(seed)
    command, arguments, said = command_line(rng)
    try:
        _, config = parse(arguments)
    except InputError as error:
        return one_line(error)
    hints = {name: hint for name, hint, *_ in options_of(SETTINGS[command])}
    for name, text in said.items():
        if not as_written(hints[name], text, value_of(config, name), NULL[:1]):
            return f"--{name}={text!r} became {value_of(config, name)!r}"
    return accepted(config, command, arguments, folder, seed)


def recipe(rng: random.Random) -> tuple[str, bytes]:
    """A command and a recipe for it, mutated."""
    command = rng.choice(list(FITS))
    text = (RECIPES / f"{rng.choice(FITS[command])}.yaml").read_text()
    options = list(options_of(SETTINGS[command]))
    for _ in range(rng.randrange(4)):
        name, hint, default, _ = rng.choice(options)
        value = rng.choice(TEXTS) if rng.random() < 0.4 else plausible(hint, default, rng)
        if rng.random() < 0.3:
            value = rng.choice(['"{}"', "'{}'", "[{}]", "{{a: {}}}", "\n  - {}"]).format(value)
        key = name if rng.random() < 0.9 else rng.choice([name[:-1], "config", "1", "null", "? x"])
        text = f"{re.sub(f'^{re.escape(key)}:.*', '', text, flags=re.M)}\n{key}: {value}\n"
    content = text.encode(errors="surrogatepass")
    return command, mutated(content, rng) if rng.random() < 0.4 else content


def try_recipe(folder: str, seed: int) -> str:
    rng = random.Random(seed)
    command, content = recipe(rng)
    path = Path(folder) / f"recipe-{seed}.yaml"
    path.write_bytes(content)
    arguments = [*command.split(), *(["--config"] if rng.random() < 0.5 else []), str(path)]
    try:
        _, config = parse(arguments)
    except InputError as error:
        path.unlink()
        # Settings that contradict each other are named, whichever file they are from.
        return one_line(error, path.name, "=", "has no default", "_", "task ")
    hints = {name: hint for name, hint, *_ in options_of(SETTINGS[command])}
    written = yaml.load(content.decode(), yaml.BaseLoader)
    for name, text in written.items():
        known = isinstance(text, str) and name in hints
        if known and not as_written(hints[name], text, value_of(config, name), NULL):
            return f"{name}: {text!r} became {value_of(config, name)!r}"
    outcome = accepted(config, command, arguments, folder, seed)
    path.unlink()
    return outcome


KINDS = {"flags": try_flags, "recipes": try_recipe}


@pytest.mark.parametrize("kind", KINDS)
def test_some_settings_are_refused_or_as_written(kind, tmp_path):
    check(outcomes(KINDS[kind], tmp_path, 150, processes=1, seeds=150))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("flags", 4000), ("recipes", 3000)])
def test_settings_are_refused_or_as_written(kind, count, tmp_path):
    check(outcomes(KINDS[kind], tmp_path, count, seeds=500))
