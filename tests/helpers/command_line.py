"""Runs a command of zipr1 in this process."""

from zipr1.cli.main import main


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command."""
    status = 0
    try:
        main(list(arguments))
    except SystemExit as stop:
        status = stop.code or 0
    out = capsys.readouterr()
    return status, out.out, out.err
