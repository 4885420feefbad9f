"""Runs of the command line as processes that can be stopped, starved and watched.

Most are forks of this process, which has imported everything and computed nothing: hundreds of starts take no longer
than their work. They run `d2r_fast.engine.cli.main` as the console script does. Where the start or the end of the
interpreter counts, a run is a process of its own from the beginning.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from d2r_fast.engine.cli import main

PROGRAM = (sys.executable, "-c", "from d2r_fast.engine.cli import main; main()")
LONGEST_S = 600.0
"""A run that takes longer has hung."""
STOPS = (signal.SIGINT, signal.SIGTERM)
_LOOK_EVERY_S = 0.002
Prepare = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its status as a shell has it (128 + signal where one killed it), what it said, and how long it
    was waited for."""

    status: int
    said: str
    seconds: float

    @property
    def last_line(self) -> str:
        lines = self.said.strip().splitlines()
        return lines[-1] if lines else ""


class Hung(AssertionError):
    """A run that had to be killed since it did not end."""


@dataclass(frozen=True, slots=True)
class Child:
    """A run that goes on."""

    pid: int
    output: Path

    def send(self, signum: int) -> None:
        """Sends a signal; to a run that has ended meanwhile, none."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def ended(self) -> Ended | None:
        """How it ended; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return None if pid == 0 else self._result(status, 0.0)

    def wait(self, timeout_s: float = LONGEST_S) -> Ended:
        """Waits for the end.

        Raises:
            Hung: it did not come; the run is killed.
        """
        begun_s = time.monotonic()
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            seconds = time.monotonic() - begun_s
            if pid:
                return self._result(status, seconds)
            if seconds > timeout_s:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Hung(f"did not end in {timeout_s:g} s; it said: {self.output.read_text()[-500:]}")
            time.sleep(_LOOK_EVERY_S)

    def _result(self, status: int, seconds: float) -> Ended:
        code = os.waitstatus_to_exitcode(status)
        return Ended(128 - code if code < 0 else code, self.output.read_text(errors="replace"), seconds)


def fork(arguments: list[str], output: Path, *, prepare: Prepare | None = None) -> Child:
    """A run in a copy of this process, in which `prepare` is done first."""
    return _fork(lambda: command(arguments, prepare), output)


def launch(arguments: list[str], output: Path) -> Child:
    """A run in a new interpreter."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [(os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)]
    pid = os.posix_spawn(sys.executable, [*PROGRAM, *arguments], os.environ, file_actions=actions)
    return Child(pid, output)


def aside(work: Prepare, output: Path) -> None:
    """Does work in a copy of this process, which so starts no threads that a fork would lose. What it imported is
    imported here too, and later copies need not do it again.

    Raises:
        AssertionError: it failed.
    """
    names = output.with_name(f"{output.name}.modules")

    def run() -> int:
        before = set(sys.modules)
        work()
        names.write_text("\n".join(sorted(sys.modules.keys() - before)))
        return 0

    ended = _fork(run, output).wait()
    assert ended.status == 0, f"status {ended.status}: {ended.said[-2000:]}"
    for name in names.read_text().split():
        with suppress(ImportError):  # some are made by their parents, or refuse to be first
            import_module(name)


def _fork(run: Callable[[], int], output: Path) -> Child:
    sys.stdout.flush()
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return Child(pid, output)
    status = 1
    try:
        for signum in STOPS:
            signal.signal(signum, signal.SIG_DFL)  # not what our own run has made of it
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = run()
    except BaseException:  # whatever it is, this copy must not go on with what the original has to do
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def command(arguments: list[str], prepare: Prepare | None) -> int:
    """The command line's work; its status."""
    if prepare is not None:
        prepare()
    sys.argv = ["d2r-fast", *arguments]
    try:
        main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    return 0
