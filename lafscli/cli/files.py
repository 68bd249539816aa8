"""put, get, cat (CLI.md §4), for immutable files."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.landing import choose, landing, resumed
from lafscli.cli.options import ENCODING, SIZE, command
from lafscli.cli.output import Unheard
from lafscli.cli.progress import ShownProgress
from lafscli.cli.targets import found, like_a_cap, readable_file
from lafscli.config.home import Home
from lafscli.errors import LafsError, NotHappy, Unreachable, UsageError
from lafscli.formats.caps import Cap, ChkCap, LitCap
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.hashes import tagged_hash

if TYPE_CHECKING:
    from lafscli.tree.contents import Read

STRICT = click.option("--strict", is_flag=True, help="Refuse a version older than one that was seen before (exit 6).")


@command("put")
@click.argument("local")
@click.argument("target", required=False)
@click.option("--format", "format_", type=click.Choice(["chk", "sdmf", "mdmf"]), help="What to make; chk so far.")
@click.option("--mutable", is_flag=True, help="Make a mutable file (not in this version).")
@click.option("--private-key", metavar="FILE", help="The RSA key of a mutable file (not in this version).")
@click.option("--encoding", type=ENCODING, help="Any K of N shares rebuild the file, on at least H servers.")
@click.option("--segment-size", type=SIZE, help="Largest segment; 1M unless said.")
@click.option("--no-convergence", is_flag=True, help="Use a random key: equal files get different caps.")
def put(
    frame: Frame,
    local: str,
    target: str | None,
    format_: str | None,
    mutable: bool,
    private_key: str | None,
    encoding: Encoding | None,
    segment_size: int | None,
    no_convergence: bool,
) -> None:
    """Store a file and print its cap.

    LOCAL is a file, or - for stdin, which is streamed. The cap is all one needs to fetch the file: keep it. It is
    also written to `pins` in the home. The same file gives the same cap; what came through a pipe and is longer than
    a segment gets a random key.
    """
    if target is not None:
        raise UsageError("a TARGET can't be linked yet")
    if mutable or private_key is not None or format_ in ("sdmf", "mdmf"):
        raise UsageError("mutable files can't be made yet", hint="this version of lafs stores immutable files (chk)")
    from lafscli.config import secrets
    from lafscli.immutable.upload import upload

    began = time.monotonic()
    if local == "-":
        frame.connections.take_stdin("the file")
    client = frame.client()
    try:
        secrets.can_pin(client.config.home)
    except LafsError as error:
        frame.out.warn(f"the cap will not be kept among the pins, only printed: {error.message}")
    chosen = encoding or client.config.encoding
    largest = client.config.encoding.segment_size if segment_size is None else segment_size
    chosen = replace(chosen, segment_size=largest)
    writing = client.writing(chosen, convergent=not no_convergence)
    if local != "-":
        _enough_servers(frame, chosen, Path(local))
    with ShownProgress(frame.connections, frame.out, f"put {local}") as progress:
        try:
            if local == "-":
                with os.fdopen(0, "rb", buffering=0, closefd=False) as stream:
                    done = upload(client.grid, stream, writing, progress)
            else:
                done = upload(client.grid, Path(local), writing, progress)
        except (NotHappy, Unreachable):
            _enough_servers(frame, chosen, None)
            raise
    for shnum, names in done.placement.items():
        frame.out.tell(f"share {shnum}: {', '.join(names)}", level=1)
    document: dict[str, Any] = {"cap": str(done.cap), "kind": done.cap.kind, "size": done.size}
    if not isinstance(done.cap, LitCap) and done.encoding is not None:
        verify = done.cap.verify_cap()
        document |= {
            "verify_cap": str(verify),
            "storage_index": b32encode(verify.storage_index),
            "encoding": encoding_document(done.encoding),
            "happiness": done.happiness,
            "pushed_shares": done.pushed,
            "preexisting_shares": done.preexisting,
            "resumed_bytes": done.resumed_bytes,
            "placement": {str(shnum): names for shnum, names in done.placement.items()},
        }
    document["seconds"] = round(time.monotonic() - began, 3)
    code = _hand_over(frame, client.config.home, document)
    client.sweep({name for names in done.placement.values() for name in names})
    if code:
        raise SystemExit(code)


def _hand_over(frame: Frame, home: Home, document: dict[str, Any]) -> int:
    """Print the cap of what is stored, and pin it; the exit code. That one of both fails does not hold up the other."""
    from lafscli.config import secrets

    unheard: Unheard | None = None
    unpinned: LafsError | None = None
    newest = False
    try:
        frame.out.show(document, document["cap"])
    except Unheard as error:
        unheard = error
    finally:  # also when nobody reads stdout, or a signal comes
        try:
            newest = secrets.pin(home, document["cap"])
        except LafsError as error:
            unpinned = error
            frame.out.warn(f"the file is stored, but its cap is not among the pins: {error.message}")
    if unheard is not None:
        if unpinned is None:
            where = "is the last line of" if newest else "stands in"
            unheard.hint = f"the file is stored, and its cap {where} {home.path / 'pins'}"
        raise unheard
    return 0 if unpinned is None else unpinned.exit_code


def _enough_servers(frame: Frame, encoding: Encoding, path: Path | None) -> None:
    """Refuse what can't be happy on the servers there are, before anything is read or sent. A file so small that it
    is kept in its cap needs none."""
    from lafscli.immutable.upload import LIT_LIMIT

    try:
        if path is not None and path.stat().st_size <= LIT_LIMIT:
            return
    except OSError:
        return
    count = len(frame.client_with_servers().config.writable)
    if count < encoding.happy:
        fitting = f"; on {count} servers: lafs encoding {encoding.fitting(count)}" if count else ""
        raise NotHappy(
            f"{count} servers take shares, {encoding.happy} are needed to store safely ({encoding})",
            hint=f"add servers with lafs server add{fitting}",
        )


def encoding_document(encoding: Encoding) -> dict[str, int]:
    """An encoding as JSON."""
    return {"k": encoding.k, "happy": encoding.happy, "n": encoding.n, "segment_size": encoding.segment_size}


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
    from lafscli.tree.contents import read

    began = time.monotonic()
    file = found(frame, target)
    cap = readable_file(file)
    path = choose(frame, local, file.name)
    size = _known_size(cap)
    if size is not None and offset > size:
        raise UsageError(f"the file ends before byte {offset}: it has {size} bytes")
    if resume and (path is None or offset or length is not None):
        raise UsageError(
            "--resume is for whole files that get a name", hint="leave out --offset and --length, say LOCAL"
        )
    access = frame.access(cap, strict=strict)
    with ShownProgress(frame.connections, frame.out, f"get {path or '-'}", stdout=path is None) as progress:
        if resume and path is not None and size is not None:
            token = tagged_hash(b"lafs partial download", str(cap).encode()).hex()[:32]
            with resumed(path, token) as held:
                done = read(access, cap, held.write, progress=progress, held=held)
        else:
            with landing(path) as write:
                done = read(access, cap, write, offset=offset, length=length, progress=progress)
    if path is not None:
        document = {"path": str(path), "size": done.size, "seconds": round(time.monotonic() - began, 3)}
        if resume:
            document["resumed_bytes"] = done.kept
        frame.out.show(document | _trouble(done), "")
    _advise(frame, target, done)


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
    from lafscli.tree.contents import read

    if frame.settings.json:
        raise UsageError("--json and the files can't both go to stdout")
    for target, cap in [(target, readable_file(found(frame, target))) for target in targets]:
        with landing(None) as write, ShownProgress(frame.connections, frame.out, "cat", stdout=True) as progress:
            done = read(frame.access(cap, strict=strict), cap, write, progress=progress)
        _advise(frame, target, done)
