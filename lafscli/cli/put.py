"""put (CLI.md §4): a file of any kind, alone, linked in a directory, or in the place of a mutable one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import ENCODING, SIZE, command
from lafscli.cli.progress import ShownProgress
from lafscli.cli.storing import PRIVATE_KEY, enough_servers, hand_over, read_key, warn_of_pins
from lafscli.cli.targets import Target, creatable, resolve
from lafscli.errors import LafsError, NotGranted, NotHappy, Unreachable, UsageError
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, MutableReadCap, MutableWriteCap, UnknownCap
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode

if TYPE_CHECKING:
    from lafscli.immutable.upload import Uploaded
    from lafscli.mutable.publish import Published
    from lafscli.primitives.ciphers import PrivateKey
    from lafscli.storage.store import Progress
    from lafscli.tree.contents import Access, Kind
    from lafscli.tree.paths import Reached


@command("put")
@click.argument("local")
@click.argument("target", required=False)
@click.option("--format", "format_", type=click.Choice(["chk", "sdmf", "mdmf"]), help="What to make: chk unless said.")
@click.option("--mutable", is_flag=True, help="Make a mutable file: the same as --format sdmf.")
@PRIVATE_KEY
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

    LOCAL is a file, or - for stdin, which is streamed. The cap is all one needs to fetch the file. With TARGET
    (alias:path, or CAP/path) the file is linked there, and directories on the way that are missing are made; TARGET/ or
    a directory takes it under its own name. Where a mutable file is, its content is replaced, also when TARGET is its
    write cap. Without TARGET keep the cap: only its read cap is written to `pins` in the home. The same immutable file
    gives the same cap; what came through a pipe and is longer than a segment gets a random key.
    """
    from lafscli.config import secrets

    began = time.monotonic()
    kind = _kind(format_, mutable, private_key)
    private = None if private_key is None else read_key(private_key)
    if local == "-":
        frame.connections.take_stdin("the file")
    client = frame.client()
    chosen = encoding or client.config.encoding
    largest = client.config.encoding.segment_size if segment_size is None else segment_size
    chosen = replace(chosen, segment_size=largest)
    access = frame.access(None, chosen, convergent=not no_convergence)
    place = Place(None) if target is None else _place(access, resolve(frame, target), local)
    if place.slot is not None:
        _must_fit(place.slot, format_, private_key, others=encoding is not None or segment_size is not None)
    if place.pins:
        warn_of_pins(frame, client.config.home)
    alone = target is None and kind == "chk"  # it may fit into its cap, and then needs no server
    if not alone:
        client.require_members()
    if place.slot is None and not (alone and local == "-"):
        enough_servers(frame, chosen, Path(local) if alone else None)
    with ShownProgress(frame.connections, frame.out, f"put {local}") as progress:
        try:
            if local == "-":
                with os.fdopen(0, "rb", buffering=0, closefd=False) as stream:
                    done = _store(access, place, stream, kind, private, progress)
            else:
                done = _store(access, place, Path(local), kind, private, progress)
        except (NotHappy, Unreachable):
            enough_servers(frame, chosen, None)
            raise
    try:
        place.link(frame.access(), done.cap)  # directories are in the configured encoding, whatever this file has
    except LafsError as error:
        if local == "-":  # what came through a pipe is not lost for that
            secrets.pin(client.config.home, str(done.cap.read_cap()))
            error.hint = f"it is stored, and not linked: its read cap stands in {client.config.home.path / 'pins'}"
        raise
    for shnum, names in done.placement.items():
        frame.out.tell(f"share {shnum}: {', '.join(names)}", level=1)
    document = _document(done) | {"seconds": round(time.monotonic() - began, 3)}
    code = hand_over(frame, client.config.home, document, str(done.cap.read_cap()) if place.pins else None)
    client.sweep({name for names in done.placement.values() for name in names})
    if code:
        raise SystemExit(code)


def _kind(format_: str | None, mutable: bool, private_key: str | None) -> Kind:
    if mutable and format_ == "chk":
        raise UsageError("a chk file is immutable: --mutable and --format chk contradict one another")
    kind = format_ or ("sdmf" if mutable else "chk")
    if private_key is not None and kind == "chk":
        raise UsageError("an immutable file has no private key", hint="--mutable, or --format sdmf or mdmf")
    return "chk" if kind == "chk" else "sdmf" if kind == "sdmf" else "mdmf"


def _must_fit(slot: MutableWriteCap, format_: str | None, private_key: str | None, *, others: bool) -> None:
    """UsageError where the mutable file that is there is another one than what was asked for: it stays what it is."""
    if private_key is not None:
        raise UsageError("there is a mutable file already, which keeps its key", hint="leave out --private-key")
    if others:
        raise UsageError(
            "there is a mutable file already, which keeps its encoding and segments",
            hint="leave out --encoding and --segment-size; to have another file there, lafs rm the old one first",
        )
    if format_ not in (None, slot.kind):
        raise UsageError(
            f"there is a mutable file already, which is and stays {slot.kind}: --format {format_} contradicts that",
            hint="leave out --format to replace its content; to have another file there, lafs rm the old one first",
        )


# ---- where it goes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file goes: nowhere (no `target`), to a name, or into the `slot` of a mutable file."""

    target: Target | None
    slot: MutableWriteCap | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()
    reached: Reached | None = field(default=None, repr=False)

    @property
    def pins(self) -> bool:
        """Whether no alias leads to it (CLI.md §3)."""
        return self.target is None or self.target.as_cap

    def link(self, access: Access, cap: Cap) -> None:
        """Link what was stored, if it is to be."""
        if self.target is None or self.slot is not None or self.reached is None:
            return
        from lafscli.tree.directory import NewChild
        from lafscli.tree.links import plant

        plant(access, self.reached, self.names[-1], NewChild(cap), over="files")


def _place(access: Access, target: Target, local: str) -> Place:
    """Look what is at a TARGET; refuse what can't be put there before anything is sent."""
    from lafscli.tree.directory import changeable
    from lafscli.tree.paths import reach

    root = target.cap
    if not isinstance(root, DirectoryCap):
        if target.names or target.slash:
            raise UsageError("TARGET is the cap of a file: no path leads into it")
        return Place(target, _slot(root, "the file"))
    names = target.names
    inside = not names or target.slash
    if inside:
        names = (*names, _base_name(local))
    creatable(names)
    reached = reach(access, root, names)
    if not inside and reached.child is not None and reached.child.cap.is_directory:
        names = (*names, _base_name(local))
        creatable(names)
        reached = reach(access, root, names)
    if reached.unusable is not None:
        raise reached.unusable
    child = reached.child
    if child is not None and child.cap.is_directory:
        raise LafsError(f"{'/'.join(names)}: is a directory", hint="say another name, or put it into that: TARGET/")
    if child is not None and isinstance(child.cap, MutableReadCap | MutableWriteCap):
        return Place(target, _slot(child.cap, "/".join(names)), names, reached)
    changeable(reached.above[-1])
    if child is not None and isinstance(child.cap, UnknownCap):
        raise LafsError(
            f"{'/'.join(names)}: is of a kind that lafs does not know, and is not replaced", hint="lafs rm removes it"
        )
    return Place(target, None, names, reached)


def _slot(cap: Cap, what: str) -> MutableWriteCap:
    if isinstance(cap, MutableWriteCap):
        return cap
    if isinstance(cap, UnknownCap):
        raise UsageError("this cap is of a kind that lafs does not know")
    if cap.mutable:
        raise NotGranted(f"{what} can't be written with its read cap", hint="that takes the write cap")
    raise NotGranted(f"{what} is immutable: nothing can be written there", hint="put it under a name of a directory")


def _base_name(local: str) -> str:
    if local == "-":
        raise UsageError("what comes from stdin has no name", hint="say one: lafs put - alias:dir/NAME")
    name = Path(os.path.abspath(local)).name
    if not name:
        raise UsageError(f"{local} has no name")
    return name


def _store(
    access: Access,
    place: Place,
    source: Path | BinaryIO,
    kind: Kind,
    private: PrivateKey | None,
    progress: Progress,
) -> Uploaded | Published:
    from lafscli.tree.contents import overwrite, store

    if place.slot is not None:
        return overwrite(access, place.slot, source, progress)
    return store(access, source, kind, private=private, progress=progress)


# ---- the answer ----------------------------------------------------------------------------------------------------


def _document(done: Uploaded | Published) -> dict[str, Any]:
    from lafscli.immutable.upload import Uploaded

    document: dict[str, Any] = {"cap": str(done.cap), "kind": done.cap.kind, "size": done.size}
    if isinstance(done.cap, LitCap) or done.encoding is None:
        return document
    verify = done.cap.verify_cap()
    document |= {
        "verify_cap": str(verify),
        "storage_index": b32encode(verify.storage_index),
        "encoding": encoding_document(done.encoding),
        "happiness": done.happiness,
    }
    if isinstance(done, Uploaded):
        document |= {
            "pushed_shares": done.pushed,
            "preexisting_shares": done.preexisting,
            "resumed_bytes": done.resumed_bytes,
        }
    else:
        document |= {"pushed_shares": sum(map(len, done.placement.values())), "seqnum": done.seqnum}
    return document | {"placement": {str(shnum): names for shnum, names in done.placement.items()}}


def encoding_document(encoding: Encoding) -> dict[str, int]:
    """An encoding as JSON."""
    return {"k": encoding.k, "happy": encoding.happy, "n": encoding.n, "segment_size": encoding.segment_size}
