"""The errors that a person sees, and the exit status each one ends with.

Everything else that is raised is a bug and keeps its traceback.
"""


class UserError(ValueError):
    """What was given cannot be used: one line with what was given, what is allowed, what to do."""

    exit_code = 2


class RunError(RuntimeError):
    """The run cannot go on (disk full, folder in use, damaged output): one line, then exit 1."""

    exit_code = 1
