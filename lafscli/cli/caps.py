"""cap show, cap read, cap verify (CLI.md §4): what a cap is; no server is asked."""

from __future__ import annotations

from typing import Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.targets import found
from lafscli.cli.text import facts
from lafscli.errors import NotGranted
from lafscli.formats import caps
from lafscli.primitives.encoding import b32encode


def describe(cap: caps.Cap) -> dict[str, Any]:
    """What a cap is, as `cap show` tells it."""
    found: dict[str, Any] = {"kind": cap.kind, "writable": cap.writable, "mutable": cap.mutable}
    inner = cap.inner if isinstance(cap, caps.DirectoryCap) else cap
    if isinstance(inner, caps.ChkCap | caps.ChkVerifyCap):
        found |= {"k": inner.k, "n": inner.n, "size": inner.size}
    elif isinstance(inner, caps.LitCap):
        found["size"] = len(inner.content)
    if cap.storage_index is not None:
        found["storage_index"] = b32encode(cap.storage_index)
    if cap.readable and not isinstance(cap, caps.UnknownCap):
        found["read_cap"] = str(cap.read_cap())
    verify = cap.verify_cap()
    if verify is not None:
        found["verify_cap"] = str(verify)
    return found


@command("cap show")
@click.argument("target")
def show(frame: Frame, target: str) -> None:
    """Show what a cap is and grants.

    TARGET is a cap, @FILE, alias:path or a path under the default alias. No server is asked where no path is followed.
    """
    told = describe(found(frame, target).cap)
    frame.out.show(told, facts(told))


@command("cap read")
@click.argument("target")
def read(frame: Frame, target: str) -> None:
    """Print the read cap.

    It reads and changes nothing: what to give to those who may read.
    """
    told = describe(found(frame, target).cap)
    if "read_cap" not in told:
        raise NotGranted("no read cap comes from this cap", hint="a verify cap can only check and repair")
    frame.out.show(told, told["read_cap"])


@command("cap verify")
@click.argument("target")
def verify(frame: Frame, target: str) -> None:
    """Print the verify cap.

    It checks and repairs shares and reads nothing: what to give to those who keep the file healthy.
    """
    told = describe(found(frame, target).cap)
    if "verify_cap" not in told:
        raise NotGranted("this cap has no verify cap", hint="there are no shares that could be checked")
    frame.out.show(told, told["verify_cap"])
