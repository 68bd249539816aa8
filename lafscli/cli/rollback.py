"""server history, server rollback: kept versions of mutable shares, at the host and without a home (CLI.md §7)."""

from __future__ import annotations

import os
import re
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.hosting import alone, opened
from lafscli.cli.options import Quantity, command
from lafscli.cli.output import rfc3339
from lafscli.cli.text import columns
from lafscli.errors import Conflict, GuardHeld, Partial, UsageError
from lafscli.primitives.encoding import b32decode, b32encode
from lafscli.primitives.text import human_size

if TYPE_CHECKING:
    from lafscli.server.rollback import Plan


def parse_storage_index(text: str) -> bytes:
    """The storage index that 26 letters stand for."""
    if re.fullmatch(r"[a-z2-7]{26}", text):
        try:
            return b32decode(text)
        except ValueError:
            pass
    raise UsageError(f"not a storage index: {text!r}", hint="lafs cap show tells that of a cap")


STORAGE_INDEX = Quantity("SI", parse_storage_index)
_ROOT = click.option(
    "--root", metavar="DIR", required=True, help="The folder that contains shares/ (of a Tahoe node: NODEDIR/storage)."
)


@command("server history")
@_ROOT
@click.argument("si", metavar="[SI]", required=False, type=STORAGE_INDEX)
def history(frame: Frame, root: str, si: bytes | None) -> None:
    """List the versions of mutable shares that a storage host has kept."""
    from lafscli.server.kept import kept_holdings

    found: list[dict[str, Any]] = []
    with opened(frame, root) as folder:
        for kept in kept_holdings(folder, None if si is None else b32encode(si)):
            for version in kept.versions:
                try:
                    status = os.lstat(version.name, dir_fd=kept.folder)
                except FileNotFoundError:
                    continue
                facts = {"storage_index": kept.text, "share": version.shnum, "seqnum": version.seqnum}
                # the kernel's own time of the move: nobody can set it
                since = rfc3339(status.st_ctime)
                found.append(facts | {"root_hash": version.root, "kept": since, "size": status.st_size})
    rows = [("STORAGE INDEX", "SHARE", "VERSION", "ROOT HASH", "REPLACED", "SIZE")]
    rows += [
        (
            each["storage_index"],
            str(each["share"]),
            str(each["seqnum"]),
            each["root_hash"],
            each["kept"],
            human_size(each["size"]),
        )
        for each in found
    ]
    frame.out.show({"versions": found}, columns(rows) if found else "")
    if not found and not frame.settings.json:
        frame.out.tell("no version is kept there: lafs serve --append-only --history COUNT keeps them")
    if folder.failures:
        raise SystemExit(Partial.exit_code)


@command("server rollback")
@_ROOT
@click.argument("si", metavar="SI", type=STORAGE_INDEX)
@click.option("--to", "seqnum", type=click.IntRange(0), metavar="SEQNUM", help="Which version; else the one before.")
@click.option("--share", "shnum", type=click.IntRange(0, 255), metavar="N", help="Only this share.")
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be done.")
def rollback(frame: Frame, root: str, si: bytes, seqnum: int | None, shnum: int | None, dry_run: bool) -> None:
    """Put a kept version of a mutable object back in place.

    All shares of the storage index on this host are put back, as far as that version of them is kept. What stood
    there is kept in its turn, so that this can be taken back. Other hosts that hold shares need the same.
    """
    from lafscli.server.keeper import Keeper
    from lafscli.server.rollback import plan, roll_back

    failures: dict[int, str] = {}
    done: tuple[int, ...] = ()
    with (
        opened(frame, root) as folder,
        closing(
            Keeper(folder.descriptor, append_only=True, history=1, now=time.time, random_bytes=os.urandom)
        ) as keeper,
    ):
        with folder.there("history") as kept:
            versions = keeper.versions(si) if kept is not None else []
        made = plan(folder, versions, si, seqnum=seqnum, shnum=shnum)
        if not dry_run:
            with alone(folder, "rollback", keeper.turns) as guards:
                try:
                    done = roll_back(folder, keeper, guards, made, failed=failures.__setitem__)
                except GuardHeld as error:
                    raise Conflict(error.message, hint="try again when that is over") from error
    _show_rollback(frame, made, done, failures, dry_run=dry_run)


def _show_rollback(frame: Frame, made: Plan, done: tuple[int, ...], failures: dict[int, str], *, dry_run: bool) -> None:
    number, root = made.version
    missing = [step.shnum for step in made.steps if step.version is None and not step.unchanged]
    restored = [step for step in made.steps if step.shnum in done]
    if dry_run:
        restored = [step for step in made.steps if step.version is not None and not step.unchanged]
    for shnum, why in failures.items():
        frame.out.name(f"share {shnum}: {why}")
    for shnum in missing:
        frame.out.name(f"share {shnum}: version {number} of it is not kept here")
    document: dict[str, Any] = {
        "storage_index": b32encode(made.si),
        "seqnum": number,
        "root_hash": root,
        "restored": [
            {"share": step.shnum} | ({"before": step.before[0]} if step.before is not None else {}) for step in restored
        ],
        "unchanged": [step.shnum for step in made.steps if step.unchanged],
        "failed": [{"share": shnum, "reason": why} for shnum, why in failures.items()]
        + [{"share": shnum, "reason": "not kept"} for shnum in missing],
        "dry_run": dry_run,
    }
    word = "would be put back" if dry_run else "is back"
    lines = [
        f"share {step.shnum}: version {number} {word}"
        + (f", {step.before[0]} stood there" if step.before is not None else "")
        for step in restored
    ]
    lines += [f"share {shnum}: version {number} stands there already" for shnum in document["unchanged"]]
    frame.out.show(document, "\n".join(lines))
    if restored and not frame.settings.json:
        frame.out.tell(
            "a reader takes the newest version of which enough shares are left anywhere: do the same on the other hosts"
        )
    if failures or missing:
        raise SystemExit(Partial.exit_code)
