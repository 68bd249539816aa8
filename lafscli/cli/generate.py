"""What is made from the commands: help, manual pages, completion scripts, the zipapp (CLI.md §8)."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafscli.cli import table
from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.output import terminal
from lafscli.errors import UsageError

if TYPE_CHECKING:
    from lafscli.cli.manual import Page


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(frame: Frame, shell: str) -> None:
    """Print the completion script for a shell.

    The script starts no process when it completes. See the manual page for where to put it.
    """
    from lafscli.cli import completions

    text = completions.script(shell)
    frame.out.show({"shell": shell, "script": text}, text.rstrip("\n"))


@command("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
def help_(frame: Frame, words: tuple[str, ...]) -> None:
    """Show the help of a command, or list the commands."""
    from lafscli.cli.main import Root

    group: click.Command = Root()
    context = click.Context(group, info_name="lafs", obj=frame)
    for word in words:
        if not isinstance(group, click.Group):
            raise UsageError(f"{context.command_path} has no command {word!r}", hint=f"{context.command_path} --help")
        _, found, _ = group.resolve_command(context, [word])
        assert found is not None
        group = found
        context = click.Context(found, parent=context, info_name=word, **found.context_settings)
    text = group.get_help(context)
    frame.out.show({"text": text}, text)


@command("man")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
def man(frame: Frame, words: tuple[str, ...]) -> None:
    """Show the manual page of a command.

    Also `lafs man config`, `lafs man security` and `lafs man 7 backup`; a page may be called by its full name,
    lafs-put. Without a COMMAND that of lafs itself. On a terminal man(1) shows the page; elsewhere, or without man(1),
    it is plain text.
    """
    from difflib import get_close_matches

    from lafscli.cli import manual, reference

    if len(words) > 1 and words[0].isdigit():
        words = (*words[1:-1], f"{words[-1]}.{words[0]}" if words[0] == "7" and words[-1] != "security" else words[-1])
    name = "-".join(words) or "lafs"
    if name != "lafs" and not name.startswith("lafs-"):
        name = f"lafs-{name}"
    page = reference.page(name)
    if page is None:
        family = [row.name for row in table.family(" ".join(words)) if words and not row.hidden]
        close = [each.removeprefix("lafs-") for each in get_close_matches(name, reference.names(), n=3, cutoff=0.75)]
        hint = f"lafs man {' | '.join(family or close)}" if family or close else "lafs man lists the commands"
        raise UsageError(f"there is no manual page for {' '.join(words)}", hint=hint)
    if not frame.settings.json and terminal(sys.stdout) and _shown_by_man(page):
        return
    text = manual.plain(page)
    frame.out.show({"page": page.file_name, "text": text}, text.rstrip("\n"))


def _shown_by_man(page: Page) -> bool:
    """Whether man(1) is there and has shown the page."""
    import shutil
    import subprocess
    import tempfile

    from lafscli.cli import manual

    program = shutil.which("man")
    if program is None:
        return False
    with tempfile.TemporaryDirectory(prefix="lafs-man-") as folder:
        path = Path(folder, page.file_name)
        path.write_text(manual.roff(page), "utf-8")
        return subprocess.run([program, str(path)], check=False).returncode == 0


@command("generate-docs")
@click.argument("folder", metavar="DIR")
def generate_docs(frame: Frame, folder: str) -> None:
    """Write man/ and completions/ below DIR, and remove pages of commands that are gone."""
    wanted = documents()
    for below in ("man", "completions"):
        Path(folder, below).mkdir(parents=True, exist_ok=True)
        for path in Path(folder, below).iterdir():
            if f"{below}/{path.name}" not in wanted:
                path.unlink()
    for name, text in wanted.items():
        Path(folder, name).write_text(text, "utf-8")
    frame.out.show({"files": sorted(wanted)}, f"{len(wanted)} files in {folder}")


def documents() -> dict[str, str]:
    """Every generated file by its path in the checkout."""
    from lafscli.cli import completions, manual, reference

    texts = {f"completions/{file}": completions.script(shell) for shell, file in COMPLETION_FILES.items()}
    for name in reference.names():
        page = reference.page(name)
        assert page is not None
        texts[f"man/{page.file_name}"] = manual.roff(page)
    return texts


COMPLETION_FILES = {"bash": "lafs.bash", "zsh": "_lafs", "fish": "lafs.fish"}


@command("build-zipapp")
@click.argument("folder", metavar="[DIR]", default=".")
def build_zipapp(frame: Frame, folder: str) -> None:
    """Write lafs and all it needs into one executable file in DIR."""
    from lafscli.cli import zipapp

    path = zipapp.build(Path(folder))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    frame.out.show({"path": str(path), "size": path.stat().st_size, "sha256": digest}, str(path))
