"""The command line: commands loaded when they run, errors to exit codes (CLI.md §1)."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from lafscli import __version__
from lafscli.cli import signals, table
from lafscli.cli.frame import Frame
from lafscli.cli.options import Settings, global_options, wants_json, written_help
from lafscli.cli.output import Unheard
from lafscli.config import environment
from lafscli.errors import LafsError, UsageError
from lafscli.primitives.text import escape, without_caps

NOBODY_READS = 128 + signal.SIGPIPE
"""Exit code when the reader of stdout went away."""


class TableGroup(click.Group):
    """Commands of the static table, each imported when it is asked for."""

    prefix = ""

    def __init__(self, **attributes: Any) -> None:
        attributes["context_settings"] = {"help_option_names": ["-h", "--help"]}
        super().__init__(**attributes, no_args_is_help=False, invoke_without_command=True, callback=_alone)
        self.params.extend(global_options())

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """--help."""
        return written_help(super().get_help_option(ctx))

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names one may type after this word."""
        names = [row.name.rpartition(" ")[2] for row in table.family(self.prefix)]
        return names + ([] if self.prefix else [family.name for family in table.FAMILIES])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name, its module imported now."""
        row = table.find(f"{self.prefix} {cmd_name}".strip())
        if row is not None:
            return load(row)
        if not self.prefix:
            for family in table.FAMILIES:
                if family.name == cmd_name:
                    return FamilyGroup(family)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a misspelt name gets a suggestion."""
        name = args[0]
        found = self.get_command(ctx, name)
        if found is not None:
            return name, found, args[1:]
        from difflib import get_close_matches

        close = get_close_matches(name, self.list_commands(ctx), n=3, cutoff=0.6)
        swapped = [each for each in close if sorted(each) == sorted(name)]
        close = swapped or close  # the same letters in another order: a slip, and no doubt what was meant
        suggestion = f"; did you mean {' or '.join(close)}?" if close else ""
        ctx.fail(f"no such command: {f'{self.prefix} {name}'.strip()}{suggestion}")


class NoCommand(Exception):
    """`lafs` alone."""


@click.pass_context
def _alone(ctx: click.Context) -> None:
    """Refuse a group without a command."""
    if ctx.invoked_subcommand is not None:
        return
    group = ctx.command
    if isinstance(group, TableGroup) and group.prefix:
        ctx.fail(f"say what to do: {group.prefix} {'|'.join(group.list_commands(ctx))}")
    raise NoCommand


class Root(TableGroup):
    """`lafs` itself."""

    def __init__(self) -> None:
        super().__init__(name="lafs")
        self.params.append(click.Option(["--version"], is_flag=True, expose_value=False, callback=_version))

    def get_help(self, ctx: click.Context) -> str:  # noqa: ARG002
        """The overview, from the table alone."""
        return table.overview().rstrip("\n")


class FamilyGroup(TableGroup):
    """A word such as `server`."""

    def __init__(self, family: table.Family) -> None:
        self.prefix = family.name
        super().__init__(name=family.name, help=family.help)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Only the commands, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(row.name, row.help) for row in table.family(self.prefix) if not row.hidden])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        ctx.obj.out.show({"version": __version__}, f"lafs {__version__}")
        ctx.exit()


def load(row: table.Command) -> click.Command:
    """Import the command of a row."""
    found = getattr(importlib.import_module(row.module), row.attribute)
    assert isinstance(found, click.Command)
    return found


def perform(frame: Frame, arguments: Sequence[str]) -> int:
    """Run one command line in a frame; report what goes wrong; the exit code."""
    context: click.Context | None = None
    try:
        root = Root()
        with root.make_context("lafs", list(arguments), obj=frame) as context:
            root.invoke(context)
        return 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except NoCommand:
        if not frame.settings.json:
            sys.stderr.write(table.SHORT_HELP)
            return UsageError.exit_code
        return _report(frame, UsageError("no command given", hint="lafs --help"), arguments)
    except click.UsageError as wrong:
        return _report(frame, _usage(wrong), arguments)
    except LafsError as error:
        return _report(frame, error, arguments)
    except BrokenPipeError:
        return _nobody_reads()
    except OSError as error:
        where = f": {error.filename}" if isinstance(error.filename, str) else ""
        said = error.strerror or str(error)
        return _report(frame, LafsError(f"{said[:1].lower()}{said[1:]}{where}"), arguments)
    except Exception as error:
        if environment.debugging():
            raise
        said = without_caps(f"{type(error).__name__}: {error}")
        hint = "this is a mistake in lafs; LAFS_DEBUG=1 shows where"
        return _report(frame, LafsError(f"internal error: {said}", hint=hint), arguments)


def _report(frame: Frame, error: LafsError, arguments: Sequence[str]) -> int:
    """Print an error in the shape that was asked for."""
    if environment.debugging():
        import traceback

        traceback.print_exc()
    if frame.settings.json is None and wants_json(arguments):
        frame.settings.json = True
    try:
        with contextlib.suppress(UsageError):  # that the log can't be opened was said, or comes second to this error
            frame.out.open_log()
        frame.out.fail(error)
    except BrokenPipeError:
        return _nobody_reads()
    except Unheard:  # the document can't be written; stderr and the exit code tell all the same
        _discard_stdout()
    return error.exit_code


def _usage(wrong: click.UsageError) -> UsageError:
    """Click's message in our form: lower case, one line, a hint that leads to the command's help."""
    message = " ".join(wrong.format_message().split())
    message = (message[:1].lower() + message[1:]).rstrip(".").replace(". Did you mean", "; did you mean")
    words = wrong.ctx.command_path.split() if wrong.ctx is not None else ["lafs"]
    if len(words) == 1 or table.find(" ".join(words[1:])) is None:
        return UsageError(message, hint=f"{' '.join(words)} --help")
    hint = " ".join(["lafs", "help", *words[1:]])
    if isinstance(wrong, click.NoSuchOption) and not wrong.option_name.startswith("--"):
        hint += "; behind -- stand names that begin with -"
    return UsageError(message, hint=hint)


def _nobody_reads() -> int:
    """Stdout was closed by its reader: end quietly, as the signal would."""
    _discard_stdout()
    return NOBODY_READS


def _discard_stdout() -> None:
    """Let what is still in the buffer go nowhere, so that Python says nothing about it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def run(arguments: Sequence[str]) -> int:
    """Run one command line as a process: signals, settings, clean-up; the exit code."""
    _stand_in_for_closed_streams()
    began = time.monotonic()
    frame = Frame(Settings())
    code = 1
    signals.install(lambda: escape(frame.connections.progress_line()))
    try:
        with frame.connections:
            try:
                frame.settings.adopt_environment()
            except UsageError as error:
                code = _report(frame, error, arguments)
            else:
                code = perform(frame, arguments)
        frame.out.event("end", code=code, seconds=round(time.monotonic() - began, 3))
    except signals.Interrupted as stop:
        frame.out.event("interrupted", code=stop.exit_code)
        _end(stop.exit_code)
    return _flushed(code)


def _stand_in_for_closed_streams() -> None:
    """Put something under 0, 1 and 2 where they are closed, so that no file of ours gets there.

    What is put there refuses: an answer that nobody can get is not a success, and a closed stdin is no empty file.
    """
    for number, refusing in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, refusing)  # gets the lowest free number, which is this one
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flushed(code: int) -> int:
    """The exit code after stdout was flushed: 1 where that fails and nothing else went wrong."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _nobody_reads()
    except OSError:  # what is in the buffer was given up, and said to be
        _discard_stdout()
        return code or 1
    return code


def _end(code: int) -> None:
    """End now, without waiting for threads that may hang on a server."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, RuntimeError):  # closed, or the signal came in the middle of a write
            stream.flush()
    os._exit(code)
