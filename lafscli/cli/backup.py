"""backup, snapshots (CLI.md §6)."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.making import make_at
from lafscli.cli.options import DURATION, SIZE, command
from lafscli.cli.progress import ShownProgress
from lafscli.cli.storing import enough_servers, pin_linked
from lafscli.cli.targets import Target, directory_at, resolve
from lafscli.cli.text import columns
from lafscli.config.collecting import beside
from lafscli.errors import Busy, LafsError, NotFound, Partial, UsageError
from lafscli.formats.caps import DirectoryCap
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.text import count, human_size, human_time

if TYPE_CHECKING:
    from lafscli.backup.excludes import Excludes
    from lafscli.backup.runs import Tally, Trouble
    from lafscli.client import Client
    from lafscli.config.home import Home


@command("backup")
@click.argument("source")
@click.argument("target")
@click.option("--exclude", "patterns", multiple=True, metavar="PATTERN", help="Leave out, as in gitignore(5).")
@click.option("--exclude-from", "pattern_files", multiple=True, metavar="FILE", help="The same, a pattern a line.")
@click.option("--exclude-vcs", is_flag=True, help="Leave out what version control keeps: .git and the like.")
@click.option("--exclude-caches", is_flag=True, help="Leave out what is in folders with a CACHEDIR.TAG.")
@click.option("--exclude-larger-than", type=SIZE, help="Leave out larger files.")
@click.option("--one-file-system", is_flag=True, help="Leave out what is mounted below SOURCE.")
@click.option("--files-from", metavar="FILE", help="Keep only the paths in FILE, one a line; - for stdin.")
@click.option("--stdin", is_flag=True, help="Keep what comes on stdin as one file; SOURCE is -.")
@click.option("--stdin-filename", metavar="NAME", help="What that file is called: stdin unless said.")
@click.option("--ignore-timestamps", is_flag=True, help="Read every file again.")
@click.option(
    "--confirm", type=click.Choice(["quick", "full"]), default="quick", help="How what is reused is looked for."
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be read; store nothing.")
@click.option("--lock-wait", type=DURATION, default=None, help="Wait so long for another run of this backup.")
def backup(frame: Frame, source: str, target: str, **given: Any) -> None:
    """Store a snapshot of a folder, and print its path.

    SOURCE is a folder here; the snapshot is TARGET/Archives/UTC-TIME, and TARGET/Latest leads to it. It is linked when
    it is complete, and never before. What is unchanged since an earlier run, by size, mtime and inode, is not read
    again, if its shares are still there. Exit 11 if something could not be read; each is named, and the rest is kept.
    """
    began = time.monotonic()
    excludes = _excludes(given)
    if given["stdin"] or source == "-":
        _backup_stdin(frame, source, target, given, began)
        return
    if given["stdin_filename"] is not None:
        raise UsageError("--stdin-filename is for --stdin")
    if not os.path.exists(source):
        raise NotFound(f"no such folder: {source}")
    path = os.fsencode(os.path.realpath(source))
    if not os.path.isdir(path):
        raise UsageError(f"{source} is no folder", hint="lafs put stores a file")
    only = _only(frame, given["files_from"], path)
    where = resolve(frame, target)
    client = frame.client_with_servers()
    if given["dry_run"]:
        _dry_run(frame, client, path, excludes, only, given, began)
        return
    with _alone(client.config.home, path, where, given["lock_wait"]):
        _backup(frame, client, path, where, excludes, only, given, began)


def _backup(
    frame: Frame,
    client: Client,
    path: bytes,
    where: Target,
    excludes: Excludes,
    only: frozenset[bytes] | None,
    given: dict[str, Any],
    began: float,
) -> None:
    from lafscli.backup.create import make_snapshot
    from lafscli.backup.database import Database
    from lafscli.backup.runs import Settings
    from lafscli.backup.snapshots import archives, publish

    client.require_members()
    enough_servers(frame, client.config.encoding, None)
    top = _directory(frame, where)
    access = frame.access()
    into = archives(access, top, make=True)
    database = Database(_database(client))
    try:
        with ShownProgress(frame.connections, frame.out, "backup") as progress:
            progress.start("backup", None)

            def named(trouble: Trouble) -> None:
                progress.name(f"{trouble.path}: {trouble.reason}")

            settings = Settings(
                excludes,
                only,
                given["ignore_timestamps"],
                given["confirm"],
                time.time_ns,
                progress,
                named,
                progress.warn,
            )
            cap, tally = make_snapshot(access, database, path, settings)
            name = publish(access, top, into, cap, time.time, time.sleep)
    finally:
        database.close()
    _remember(frame, where, os.fsdecode(path), name, tally)
    _tell(frame, _joined(where, f"Archives/{name}"), str(cap), tally, began)


def _remember(frame: Frame, where: Target, source: str, name: str, tally: Tally) -> None:
    """Note for `lafs status` that this went well; and once a month say that there is no recovery kit, or an old one."""
    from lafscli.config import kits
    from lafscli.config.history import Event, note

    client, now = frame.client(), time.time()
    if where.cap.storage_index is not None:
        facts = {"source": source, "path": where.path, "snapshot": name, "errors": len(tally.errors)}
        root = b32encode(where.cap.storage_index)
        note(client.config.home, Event("backup", root, int(now), facts), about=f"{where.path}\0{source}")
    if kits.reminder_is_due(client.config, now):
        frame.out.warn("no recovery kit has all aliases and servers: without this home nothing of it could be read")
        frame.out.hint("lafs recovery export FILE")
        kits.reminded(client.config.home, now)


def _servers_lacking(frame: Frame, tally: Tally) -> list[dict[str, Any]]:
    """Servers that have no share of something, or did not answer when they were asked; named with what to do."""
    lacking = []
    for name in sorted({*tally.lacking, *tally.silent}):
        objects = tally.lacking.get(name, 0)
        found: dict[str, Any] = {"server": name, "objects": objects}
        if name in tally.silent:
            found["reason"] = tally.silent[name]
        lacking.append(found)
        why = f" ({tally.silent[name]})" if name in tally.silent else ""
        what = f"has no share of {count(objects, 'object')} of this snapshot" if objects else "did not answer"
        frame.out.warn(f"server {name} {what}{why}")
    if lacking:
        frame.out.hint("every object is safe; lafs repair -r TARGET stores what is lacking when the servers are back")
    return lacking


def _tell(frame: Frame, snapshot: str, cap: str, tally: Tally, began: float) -> None:
    seconds = time.monotonic() - began
    lacking = _servers_lacking(frame, tally)
    document = {"snapshot": snapshot, "cap": cap} | _document(tally, seconds) | {"servers_lacking": lacking}
    frame.out.show(document, snapshot)
    said = (
        f"{count(tally.files_new, 'file')} new, {tally.files_changed} changed, {tally.files_unmodified} unmodified; "
        f"{tally.dirs_new} directories new, {tally.dirs_reused} reused; {human_size(tally.bytes_read)} read, "
        f"{human_size(tally.bytes_pushed)} sent in {human_time(seconds)}"
    )
    if tally.reuploaded_missing:
        said += f"; {count(tally.reuploaded_missing, 'file')} lacked shares and were stored again"
    if tally.errors:
        frame.out.tell(f"{said}; {count(len(tally.errors), 'thing')} could not be read")
        raise SystemExit(Partial.exit_code)
    frame.out.tell(said, level=1)


def _document(tally: Tally, seconds: float) -> dict[str, Any]:
    return {
        "files_new": tally.files_new,
        "files_changed": tally.files_changed,
        "files_unmodified": tally.files_unmodified,
        "dirs_new": tally.dirs_new,
        "dirs_reused": tally.dirs_reused,
        "bytes_read": tally.bytes_read,
        "bytes_pushed": tally.bytes_pushed,
        "reuploaded_missing": tally.reuploaded_missing,
        "left_out": tally.left_out,
        "changed_while_read": tally.changing,
        "errors": [{"path": each.path, "reason": each.reason} for each in tally.errors],
        "seconds": round(seconds, 3),
    }


# ---- what is asked for


def _excludes(given: dict[str, Any]) -> Excludes:
    from lafscli.backup.excludes import VCS, Excludes, compiled

    patterns = list(given["patterns"])
    for name in given["pattern_files"]:
        try:
            with open(name, encoding="utf-8", errors="surrogateescape") as file:
                patterns += file.read().splitlines()
        except FileNotFoundError:
            raise NotFound(f"no such file: {name}") from None
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror}") from error
    if given["exclude_vcs"]:
        patterns += VCS
    compiled(patterns)
    return Excludes(patterns, given["exclude_caches"], given["one_file_system"], given["exclude_larger_than"])


def _only(frame: Frame, name: str | None, source: bytes) -> frozenset[bytes] | None:
    from lafscli.backup.scan import listed_paths

    if name is None:
        return None
    try:
        if name == "-":
            frame.connections.take_stdin("the list of files")
            lines = sys.stdin.buffer.read().splitlines()
        else:
            with open(name, "rb") as file:
                lines = file.read().splitlines()
    except FileNotFoundError:
        raise NotFound(f"no such file: {name}") from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error
    try:
        paths = frozenset(listed_paths(lines, source))
    except ValueError as error:
        raise UsageError(f"--files-from: {error} is not in SOURCE") from None
    if not paths:
        raise UsageError("--files-from: the list is empty", hint="did what makes it fail?")
    return paths


def _directory(frame: Frame, where: Target) -> DirectoryCap:
    """The directory that TARGET names, made if it is missing."""
    from lafscli.tree.directory import changeable

    if not isinstance(where.cap, DirectoryCap):
        raise UsageError("TARGET is not the cap of a directory")
    cap = where.cap if not where.names else make_at(frame, where, "sdmf", None)[0]
    changeable(cap)
    pin_linked(frame, where, cap)  # before anything is stored that gc might take for waste
    return cap


def _joined(where: Target, below: str) -> str:
    """A path below TARGET as the user would write it."""
    if where.as_cap:
        return f"{where.path}/{below}" if where.path else below
    return f"{where.shown.rstrip('/')}{'' if where.shown.endswith(':') else '/'}{below}"


# ---- one at a time


@contextmanager
def _alone(home: Home, source: bytes, where: Target, wait: float | None) -> Iterator[None]:
    """Hold the lock of this source and target: Busy while another run of the same backup is under way, or a `gc`. The
    system lets go of it when its holder dies, however that happens."""
    folder = home.state / "backups"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LafsError(f"cannot write {folder}: {error.strerror}") from error
    named = hashlib.sha256(source + b"\0" + str(where.cap).encode() + b"\0" + where.path.encode()).digest()
    lock = folder / f"{b32encode(named[:16])}.lock"
    with ExitStack() as held:
        try:
            held.enter_context(home.locked(str(lock), int(wait or 0)))
        except Busy as error:
            raise Busy(
                f"another run of this backup is under way ({os.fsdecode(source)})", hint="--lock-wait waits for it"
            ) from error
        # what is found stored, and what is stored now, has no link before the end: no gc of this home meanwhile
        held.enter_context(beside(home, int(wait or 0)))
        yield


def _database(client: Client) -> Any:
    """The file of what was stored from where on this grid."""
    known = client.membership()
    ids = b"".join(sorted(record.node_id for record in client.config.servers.values()))
    grid = hashlib.sha256(ids).digest()[:16] if known is None else known.grid
    return client.config.home.state / "backups" / f"{b32encode(grid)}.sqlite"


# ---- stdin, dry run


def _backup_stdin(frame: Frame, source: str, target: str, given: dict[str, Any], began: float) -> None:
    """One file of what comes on stdin, as a snapshot of its own."""
    from lafscli.backup.piped import snapshot_of_stream
    from lafscli.backup.snapshots import archives, publish

    name = given["stdin_filename"] or "stdin"
    if not given["stdin"]:
        raise UsageError("SOURCE is -: that is stdin", hint="lafs backup --stdin --stdin-filename NAME - TARGET")
    if source != "-":
        raise UsageError("with --stdin SOURCE is -", hint="lafs backup --stdin --stdin-filename NAME - TARGET")
    if "/" in name or name in ("", ".", ".."):
        raise UsageError(f"{name!r} can't be the name of a file")
    if given["dry_run"]:
        raise UsageError("stdin can be read once: there is no dry run of it")
    frame.connections.take_stdin("the file")
    where = resolve(frame, target)
    client = frame.client_with_servers()
    with _alone(client.config.home, b"-" + os.fsencode(name), where, given["lock_wait"]):
        client.require_members()
        enough_servers(frame, client.config.encoding, None)
        top = _directory(frame, where)
        access = frame.access()
        into = archives(access, top, make=True)
        with ShownProgress(frame.connections, frame.out, "backup") as progress:
            with os.fdopen(0, "rb", buffering=0, closefd=False) as stream:
                cap, tally = snapshot_of_stream(access, stream, name, time.time(), progress)
            made = publish(access, top, into, cap, time.time, time.sleep)
    _remember(frame, where, f"- ({name})", made, tally)
    _tell(frame, _joined(where, f"Archives/{made}"), str(cap), tally, began)


def _dry_run(
    frame: Frame,
    client: Client,
    path: bytes,
    excludes: Excludes,
    only: frozenset[bytes] | None,
    given: dict[str, Any],
    began: float,
) -> None:
    from lafscli.backup.database import Database
    from lafscli.backup.preview import preview

    database = Database(_database(client))
    try:
        tally = preview(
            database,
            path,
            excludes,
            only,
            ignore_timestamps=given["ignore_timestamps"],
            changed=lambda path: frame.out.tell(path, level=1),
            named=lambda trouble: frame.out.name(f"{trouble.path}: {trouble.reason}"),
            warn=frame.out.warn,
        )
    finally:
        database.close()
    document = _document(tally, time.monotonic() - began) | {"dry_run": True}
    said = (
        f"would read {count(tally.files_new + tally.files_changed, 'file')}, {human_size(tally.bytes_read)}: "
        f"{tally.files_new} new, {tally.files_changed} changed; {tally.files_unmodified} are unmodified"
    )
    frame.out.show(document, said)
    if tally.errors:
        raise SystemExit(Partial.exit_code)


# ---- snapshots


@command("snapshots")
@click.argument("target")
def snapshots(frame: Frame, target: str) -> None:
    """List the snapshots of a backup, the oldest first."""
    from lafscli.backup.snapshots import snapshots as listed

    found = listed(frame.access(), directory_at(frame, target))
    shown = [
        {
            "name": each.name,
            "time": None if each.time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(each.time)),
            "cap": str(each.cap),
        }
        for each in found
    ]
    frame.out.show({"snapshots": shown}, columns([(each.name,) for each in found]) if found else "")
    if not found:
        frame.out.tell("no snapshot yet")
