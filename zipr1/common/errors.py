"""The failures that a user can act on; every other exception is a bug and keeps its traceback."""


class InputError(ValueError):
    """What the user gave (a setting, a file, a row, a call) cannot be used as it is.

    The message names the value, the place where it stands and how to correct it. The command line
    prints it without a traceback and exits with status 2.
    """


class RunError(RuntimeError):
    """A correct request could not be completed: a full disk, a failed benchmark, unusable rows.

    The command line prints the message without a traceback and exits with status 1. `found`, what
    was found before the failure, goes to stdout, as a result does.
    """

    found = ""


class MissingExtra(RunError, ModuleNotFoundError):
    """A library of an extra is not installed; the message has the command that installs it."""
