"""What a transfer shows while it runs: a bar on stderr, or one line when SIGUSR1 asks for it (CLI.md §1)."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from lafscli.cli.frame import Connections
from lafscli.cli.output import Output, terminal
from lafscli.config import environment
from lafscli.primitives.text import escape, human_size, human_time
from lafscli.storage.store import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


class ShownProgress(Progress):
    """Counts what an operation tells, and draws it where that is wanted. A context manager.

    Threads may advance it: a lost count would only be a little less on the screen.
    """

    def __init__(self, connections: Connections, out: Output, title: str, *, stdout: bool = False) -> None:
        """`stdout`: the file itself goes there, and nothing is drawn into it where that is a terminal."""
        self._connections = connections
        self._out = out
        self._title = title
        self._crossed = stdout and terminal(sys.stdout)
        self._phase = ""
        self._total: int | None = None
        self._done = 0
        self._began = time.monotonic()
        self._servers: dict[str, int] = {}
        self._bars: Bars | None = None
        self._main: Any = None
        self._lines: dict[str, Any] = {}

    @property
    def drawn(self) -> bool:
        """Whether bars are shown."""
        return self._bars is not None

    def __enter__(self) -> ShownProgress:
        self._connections.transfer = self.line
        settings = self._out.settings
        wanted = settings.progress if settings.progress is not None else terminal(sys.stderr) and not self._crossed
        if wanted and not settings.quiet:
            self._bars = _bars(settings.color or "auto", asked=settings.progress is True)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connections.transfer = None
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()

    def start(self, phase: str, total: int | None) -> None:
        """Begin a phase: the bar starts again."""
        self._phase, self._total, self._done, self._began = phase, total, 0, time.monotonic()
        if self._bars is not None:
            if self._main is not None:
                self._bars.remove_task(self._main)
            self._main = self._bars.add_task(_markup_free(self._label()), total=total)

    def advance(self, count: int) -> None:
        """Count bytes of the phase."""
        self._done += count
        if self._bars is not None and self._main is not None:
            self._bars.advance(self._main, count)

    def server(self, name: str, count: int) -> None:
        """Count bytes to or from a server: a line of its own, whose bar is its part of the fullest server's bytes."""
        known = self._servers.get(name, 0) + count
        self._servers[name] = known
        if self._bars is not None:
            if name not in self._lines:
                self._lines[name] = self._bars.add_task(_markup_free(f"  {name}"), total=None)
            self._bars.update(self._lines[name], completed=known)

    def warn(self, message: str) -> None:
        """Print a warning above the bars."""
        if self._bars is None:
            self._out.warn(message)
            return
        self._out.event("warning", message=escape(message))
        if not self._out.settings.quiet:
            self._bars.console.print(_markup_free(f"lafs: warning: {escape(message)}"), soft_wrap=True)

    def name(self, message: str) -> None:
        """Name something that went wrong, above the bars."""
        if self._bars is None:
            self._out.name(message)
            return
        self._out.event("failed", message=escape(message))
        self._bars.console.print(_markup_free(f"lafs: {escape(message)}"), soft_wrap=True)

    def line(self) -> str:
        """All of it in one line."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = self._done / seconds
        parts = [human_size(self._done) + (f" of {human_size(self._total)}" if self._total is not None else "")]
        parts.append(f"{human_size(rate)}/s")
        if self._total is not None and rate > 0:
            parts.append(f"{human_time(max(self._total - self._done, 0) / rate)} left")
        parts += [f"{name} {human_size(count)}" for name, count in list(self._servers.items())]
        return f"{self._label()}: {', '.join(parts)}"

    def _label(self) -> str:
        """What is done, with the phase where that is not the command's own word."""
        return self._title if self._phase in self._title.split(" ", 1) else f"{self._title}: {self._phase or 'begins'}"


def _markup_free(text: str) -> Any:
    """Text in which rich finds no markup."""
    from rich.markup import escape as escape_markup

    return escape_markup(escape(text))


def _bars(color: str, *, asked: bool) -> Bars:
    """Bars for stderr; where they were asked for in so many words, also if that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    plain = color == "never" or (color == "auto" and environment.plain())
    console = Console(stderr=True, no_color=plain, force_terminal=True if asked else None, highlight=False)
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
