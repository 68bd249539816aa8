"""Storage folders for the tools at the host: real containers in real files, and the tools run over them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lafscli.cli import hosting, main
from lafscli.cli.frame import Frame
from lafscli.cli.options import Settings
from lafscli.errors import LafsError
from lafscli.primitives.encoding import b32encode
from lafscli.server.assay import Assay, Assayed
from lafscli.server.bringback import BroughtBack, bring_back
from lafscli.server.expiry import LEASE_SECONDS, Expiry
from lafscli.server.hostfolder import HostFolder
from lafscli.server.hostgc import Collected, HostCollection, Wish
from lafscli.server.hostguard import HostGuards, host_guards
from lafscli.storage.owner import Owner, this_process
from tests.kept_shares import KEY, SLOT_SI, Lease, immutable, mutable, shares, slots

NOW = 1_800_000_000
DAY = 86400
__all__ = ["DAY", "KEY", "NOW", "SLOT_SI", "Host", "immutable", "lease", "mutable", "shares", "slots", "some_si"]


def some_si(number: int) -> bytes:
    return number.to_bytes(2, "big") * 8


def lease(ends: int, who: int = 0) -> Lease:
    """One that ends so many seconds after NOW."""
    return bytes([who, 1]) * 16, bytes([who, 2]) * 16, NOW + ends


@dataclass(frozen=True)
class Said:
    """What a command has said."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Tool:
    """`lafs` in this process, without a home: call it with arguments."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str | Path, code: int | None = None) -> Said:
        return self.run(lambda frame: main.perform(frame, list(map(str, arguments))), code)

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """With --json: the one document."""
        return self.document(self(*arguments, "--json", code=code))

    def scrub(self, root: Path, *, json: bool = False, dry_run: bool = False, code: int | None = None) -> Said:
        """What `lafs serve --scrub` does."""

        def act(frame: Frame) -> int:
            frame.settings.json = json
            try:
                hosting.scrub(frame, root, dry_run=dry_run)
            except SystemExit as end:
                return int(end.code or 0)
            except LafsError as error:
                frame.out.fail(error)
                return error.exit_code
            return 0

        return self.run(act, code)

    def run(self, act: Callable[[Frame], int], code: int | None) -> Said:
        self.capsys.readouterr()
        done = act(Frame(Settings()))
        said = self.capsys.readouterr()
        assert code in (None, done), f"exit {done}: {said.err}"
        return Said(done, said.out, said.err)

    @staticmethod
    def document(said: Said) -> Any:
        [line] = said.stdout.splitlines()
        found = json.loads(line)
        assert found["schema"] == 1
        return found


@dataclass
class Host:
    """A storage folder."""

    root: Path
    named: list[tuple[str, str]] = field(default_factory=list)
    random_bytes: Callable[[int], bytes] = os.urandom
    """Called for the token of each guard, and again right before a share is moved."""

    def __post_init__(self) -> None:
        (self.root / "shares").mkdir(parents=True, exist_ok=True)

    def path(self, si: bytes, name: int | str) -> Path:
        text = b32encode(si)
        return self.root / "shares" / text[:2] / text / str(name)

    def put(self, si: bytes, name: int | str, data: bytes) -> Path:
        path = self.path(si, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def keep(self, si: bytes, name: str, data: bytes) -> Path:
        """Put a kept version into history/."""
        text = b32encode(si)
        path = self.root / "history" / text[:2] / text / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def hold(self, si: bytes, *, pid: int | None = None, age: float = 0, staged: bytes | None = None) -> Path:
        """A guard as a client over plain SFTP leaves it: held by a process of this boot, or by a stranger."""
        me = this_process(20.0)
        owner = Owner("elsewhere", "another boot", 7, 20.0) if pid is None else Owner(me.host, me.boot, pid, 20.0)
        guard = self.root / "locks" / b32encode(si)
        holder = guard / b32encode(b"t" * 16)
        holder.mkdir(parents=True)
        (holder / "owner").write_bytes(owner.serialise())
        if staged is not None:
            (holder / "0").write_bytes(staged)
        if age:
            for each in (*holder.iterdir(), holder, guard):
                past = os.stat(each).st_mtime - age
                os.utime(each, (past, past))
        return guard

    def files(self, folder: str = ".") -> dict[str, bytes]:
        """All files below, but for what the server keeps for itself."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file() and not path.is_symlink() and ".serve" not in path.parts
        }

    @contextmanager
    def opened(self) -> Iterator[HostFolder]:
        with HostFolder(self.root, named=lambda path, why: self.named.append((path, why))) as folder:
            yield folder

    @contextmanager
    def guards(self, folder: HostFolder, job: str = "gc") -> Iterator[HostGuards]:
        with host_guards(folder, random_bytes=self.random_bytes, job=job) as guards:
            yield guards

    def gc(
        self,
        *,
        delete: bool = True,
        now: float = NOW,
        older_than: int | None = None,
        cutoff: float | None = None,
        only: str | None = None,
        leaseless: bool = False,
        grace: int = 14 * DAY,
    ) -> Collected:
        wish = Wish(Expiry(now, older_than, cutoff), delete, only, leaseless, grace)
        with self.opened() as folder:
            if not delete:
                return HostCollection(folder, None, wish).run()
            with self.guards(folder) as guards:
                return HostCollection(folder, guards, wish).run()

    def undo(self, *, now: float = NOW, leaseless: bool = False) -> BroughtBack:
        with self.opened() as folder, self.guards(folder) as guards:
            return bring_back(folder, guards, now=now, leaseless=leaseless)

    def scrub(self, *, dry_run: bool = False, now: float = NOW) -> Assayed:
        with self.opened() as folder:
            if dry_run:
                return Assay(folder, None, now=lambda: now).run()
            with self.guards(folder, "scrub") as guards:
                return Assay(folder, guards, now=lambda: now).run()


assert LEASE_SECONDS == 31 * DAY
