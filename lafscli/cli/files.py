"""get and cat (CLI.md §4): files of any kind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.landing import choose, landing, resumed
from lafscli.cli.options import SIZE, command
from lafscli.cli.progress import ShownProgress
from lafscli.cli.targets import found, like_a_cap, readable_file
from lafscli.errors import UsageError
from lafscli.formats.caps import Cap, ChkCap, LitCap
from lafscli.primitives.hashes import tagged_hash

if TYPE_CHECKING:
    from lafscli.tree.contents import Read

STRICT = click.option("--strict", is_flag=True, help="Refuse a version older than one that was seen before (exit 6).")


@command("get")
@click.argument("target")
@click.argument("local", required=False)
@click.option("--offset", type=SIZE, default="0", metavar="N", help="Begin at byte N.")
@click.option("--length", type=SIZE, metavar="N", help="Fetch N bytes; fewer where the file ends.")
@click.option("--resume", is_flag=True, help="Go on where an earlier get of the same file stopped.")
@STRICT
def get(
    frame: Frame, target: str, local: str | None, offset: int, length: int | None, resume: bool, strict: bool
) -> None:
    """Fetch a file.

    TARGET is a cap, @FILE for the cap in the first line of FILE, or alias:path. LOCAL is a file, a folder, or - for
    stdout; without it the file goes under its own name into the current folder. Only bytes that were proved are
    written; a file appears under its name when it is complete. With --offset and --length only the segments that are
    needed are fetched. With --resume what was fetched of an immutable file stays after an interruption, in a hidden
    file beside LOCAL; the next get --resume proves it segment by segment and fetches only the rest.
    """
    began = time.monotonic()
    file = found(frame, target, strict=strict)
    cap = readable_file(file)
    path = choose(frame, local, file.name)
    size = _known_size(cap)
    if size is not None and offset > size:
        raise _beyond(offset, size)
    if resume and (path is None or offset or length is not None):
        raise UsageError(
            "--resume is for whole files that get a name", hint="leave out --offset and --length, say LOCAL"
        )
    access = frame.access(cap, strict=strict)  # connects, so what reads the file is loaded after it
    from lafscli.tree.contents import read

    with ShownProgress(frame.connections, frame.out, f"get {path or '-'}", stdout=path is None) as progress:
        if resume and path is not None and size is not None:
            token = tagged_hash(b"lafs partial download", str(cap).encode()).hex()[:32]
            with resumed(path, token) as held:
                done = read(access, cap, held.write, progress=progress, held=held)
        else:
            with landing(path) as write:
                done = read(access, cap, write, offset=offset, length=length, progress=progress, again=write.again)
                if offset > done.whole:
                    raise _beyond(offset, done.whole)
    if path is not None:
        document = {"path": str(path), "size": done.size, "seconds": round(time.monotonic() - began, 3)}
        if resume:
            document["resumed_bytes"] = done.kept
        frame.out.show(document | _trouble(done), "")
    _advise(frame, target, done)


def _beyond(offset: int, size: int) -> UsageError:
    return UsageError(f"the file ends before byte {offset}: it has {size} bytes")


def _known_size(cap: Cap) -> int | None:
    """The size that an immutable file's cap tells."""
    return len(cap.content) if isinstance(cap, LitCap) else cap.size if isinstance(cap, ChkCap) else None


def _trouble(done: Read) -> dict[str, Any]:
    """The shares that lied and the servers that failed, as JSON; nothing where all went well."""
    told: dict[str, Any] = {}
    if done.corrupt:
        told["corrupt"] = [{"server": bad.server, "share": bad.shnum, "reason": bad.reason} for bad in done.corrupt]
    if done.silent:
        told["unreachable"] = [{"server": name, "reason": reason} for name, reason in sorted(done.silent.items())]
    if done.warnings:
        told["warnings"] = done.warnings
    return told


def _advise(frame: Frame, target: str, done: Read) -> None:
    for warning in done.warnings:
        frame.out.warn(warning)
    if done.corrupt:
        word = "CAP" if like_a_cap(target) or target.startswith("@-") else target
        frame.out.tell(f"the file is good, and some of its shares are not: lafs check --verify {word}")


@command("cat")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@STRICT
def cat(frame: Frame, targets: tuple[str, ...], strict: bool) -> None:
    """Write files to stdout.

    Each TARGET is a cap, @FILE for the cap in the first line of FILE, or alias:path.
    """
    if frame.settings.json:
        raise UsageError("--json and the files can't both go to stdout")
    for target, cap in [(target, readable_file(found(frame, target, strict=strict))) for target in targets]:
        access = frame.access(cap, strict=strict)
        from lafscli.tree.contents import read

        with landing(None) as write, ShownProgress(frame.connections, frame.out, "cat", stdout=True) as progress:
            done = read(access, cap, write, progress=progress)
        _advise(frame, target, done)
