"""The console script `zipr1`.

Results go to stdout, everything else to stderr. Exit status 0; 2 for misuse (a bad value, file or
setting); 1 for a failure; 130 after an interrupt; 141 where nobody reads stdout. An unexpected
exception keeps its traceback.
"""

import atexit
import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any

from zipr1 import __version__
from zipr1.cli.commands import COMMANDS, Command, load
from zipr1.cli.interrupt import exit_at_ctrl_c
from zipr1.cli.output import write
from zipr1.common.errors import InputError, RunError


def main(arguments: list[str] | None = None) -> None:
    """The console script; `arguments` default to those of the process."""
    try:
        run(sys.argv[1:] if arguments is None else list(arguments))
        if arguments is None and sys.argv[1:2] == ["answer"]:
            leave()
    except InputError as error:
        sys.exit(complain(error, 2))
    except (RunError, OSError) as error:
        if found := getattr(error, "found", ""):
            write(found)
        sys.exit(complain(error, 1))
    except KeyboardInterrupt:
        sys.exit(complain("interrupted", 130))


def leave() -> None:
    """Ends the process without taking a million objects apart one by one, which takes a quarter of
    a second. Returns where a thread is still at work."""
    others = set(threading.enumerate()) - {threading.main_thread()}
    if all(thread.daemon for thread in others):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def run(arguments: list[str]) -> None:
    if arguments[:1] in (["--help"], ["-h"]):
        write(overview())
        return
    if arguments[:1] == ["--version"]:
        write(f"zipr1 {__version__}")
        return
    with exit_at_ctrl_c(), uncollected():
        command, config = parse(arguments)
        if config is None:
            return
        from zipr1.common.progress import announced, quiet_libraries, quiet_transformers

        quiet_libraries()
        step = f"{command.name}: importing torch and other libraries"
        with announced(step), redirect_stdout(sys.stderr):
            import_module(command.module)
        if "transformers" in sys.modules:
            quiet_transformers()
    with redirect_stdout(sys.stderr):  # some libraries print, as DeepSpeed does
        text = load(command.runner)(config)
    if text:
        write(text)


@contextmanager
def uncollected() -> Iterator[None]:
    """Inside the block, no garbage is collected: imports leave a million objects and hardly any
    garbage, and looking for it takes a seventh of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def parse(arguments: list[str]) -> tuple[Command, Any]:
    """(the command, its settings or None where only text was to be printed). Raises InputError."""
    from zipr1.cli.parser import parse_command

    command, rest = choose(arguments)
    return command, parse_command(command, load(command.settings), rest)


def choose(arguments: list[str]) -> tuple[Command, list[str]]:
    """The command that the arguments begin with, and the rest. Raises InputError if none does."""
    if arguments[:1] == ["train"] and "--plan" in arguments:  # estimate the training instead
        arguments = ["plan", *(one for one in arguments[1:] if one != "--plan")]
    for length in (2, 1):
        if command := COMMANDS.get(" ".join(arguments[:length])):
            return command, arguments[length:]
    from zipr1.common.settings import nearest

    name, known = " ".join(arguments[:2]), list(COMMANDS)
    groups = {one.split()[0] for one in known}
    if arguments and arguments[0] not in groups:
        name = arguments[0]
    if not arguments:
        raise InputError(f"name a command: {', '.join(known)}; `zipr1 --help` describes them")
    raise InputError(
        f"{name}: no such command{nearest(name, known)} (the commands: {', '.join(known)})"
    )


def overview() -> str:
    """The help of `zipr1` itself."""
    lines = [f"  {command.name:<12}{command.summary}" for command in COMMANDS.values()]
    return "\n".join(
        (
            "usage: zipr1 COMMAND [RECIPE] [options]",
            "",
            "Sparse inference (ZipVL) and post-training (ZipR1) of vision-language models.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            "  --help      Show this text; after a command, its options.",
            "  --version   Show the version.",
        )
    )


def complain(problem: object, status: int) -> int:
    print(f"zipr1: error: {' '.join(str(problem).split())}", file=sys.stderr)
    return status
