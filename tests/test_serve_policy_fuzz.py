"""Random requests of several connections: whatever they are, what stands proves, and is what it was or newer."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lafscli.formats.container import is_mutable
from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import APPEND, CREATE, EXCLUSIVE, READ, TRUNCATE, WRITE, Change, OpenFile, Refused
from lafscli.server.judge import prove_mutable, well_formed
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.storage.packets import string
from tests.kept_shares import OURS, SI, SLOT_SI
from tests.policed import SHARE, SLOT, everything, furnish, good, version
from tests.test_serve_quota import weight

FLAGS = [
    READ,
    WRITE,
    READ | WRITE,
    WRITE | CREATE,
    WRITE | CREATE | EXCLUSIVE,
    WRITE | CREATE | TRUNCATE,
    WRITE | APPEND,
]


class Chaos:
    """Some connections, and one who asks anything of them."""

    def __init__(self, root: Path, policy: Policy, seed: int) -> None:
        self.root = root
        self.policy = policy
        self.random = random.Random(seed)
        self.tokens = [b32encode(self.random.randbytes(16)) for _ in range(3)]
        self.connections = [self.connect() for _ in range(3)]
        self.handles: list[list[OpenFile]] = [[] for _ in self.connections]
        self.done: dict[str, int] = {}
        self.contents = [b"", b"x" * 5000, good(), good(1), *(version(number) for number in (2, 3, 4, 5))]
        self.contents += [version(4, 1), version(5, 1), (root / "server.toml").read_bytes()]

    def connect(self) -> PolicyFiles:
        return PolicyFiles(self.root, self.policy, random_bytes=self.random.randbytes)

    def path(self) -> bytes:
        pick = self.random.choice
        one, other = pick(self.tokens), pick(self.tokens)
        si = b32encode(pick([SI, SLOT_SI]))
        number = pick(["0", "1", "old.0", "owner", "255"])
        share, broken = f"shares/{si[:2]}/{si}", f"locks/.broken.{si}.{one}"
        return pick(
            [
                *(f"{share}/{number}", share, f"shares/{si[:2]}", "shares", "server.toml", "staging", "locks"),
                *(f"staging/{si}.{number}.{one}", f"staging/server.toml.{one}", f"staging/.clock.{one}"),
                f"staging/.probe.{one}.{pick('0123')}{pick(['', '/in', '/in/file', '/file'])}",
                *(f"trash/.probe.{one}", f"locks/.{one}", f"locks/.{one}/{one}", f"locks/.{one}/{one}/owner"),
                *(f"locks/{si}", f"locks/{si}/{one}", f"locks/{si}/{one}/{number}", f"locks/{si}/{one}/{number}"),
                *(broken, f"{broken}/{other}", f"{broken}/{other}/{number}", f"shares/.probe.{one}"),
                *("trash/2030-01-01/x", "quarantine", "history/aa/x", "notes.txt", "../secret"),
            ]
        ).encode()

    def step(self) -> None:
        at = self.random.randrange(len(self.connections))
        files, handles = self.connections[at], self.handles[at]
        change = Change(*(self.random.choice([None, value]) for value in (3, None, 0o777, (1, 1))))  # type: ignore[arg-type]
        acts: dict[str, Callable[[], object]] = {
            "open": lambda: handles.append(files.open(self.path(), self.random.choice(FLAGS), change)),
            "make": lambda: self.make(files),
            "guard": lambda: self.guard(files),
            "write": lambda: self.handle(handles).write(
                self.random.choice([0, 0, 8, 100, 1 << 20]), memoryview(self.random.choice(self.contents))
            ),
            "cut": lambda: self.handle(handles).change(change),
            "read": lambda: self.handle(handles).read_into(0, memoryview(bytearray(10))),
            "close": lambda: handles.pop().close() if handles else None,
            "stat": lambda: files.stat(self.path(), follow=True),
            "list": lambda: list(files.entries(self.path())),
            "set": lambda: files.change(self.path(), change),
            "remove": lambda: files.remove(self.path()),
            "mkdir": lambda: files.mkdir(self.path(), change),
            "rmdir": lambda: files.rmdir(self.path()),
            "rename": lambda: files.rename(self.path(), self.path()),
            "replace": lambda: files.replace(self.path(), self.path()),
            "link": lambda: files.link(self.path(), self.path()),
            "place": lambda: self.place(files),
            "call": lambda: self.call(files),
            "cancel": lambda: files.extended("cancel-lease@lafs", memoryview(b"\0\0\0\1" + SI + bytes(4) + OURS[1])),
            "tick": files.tick,
            "reconnect": lambda: self.reconnect(at),
        }
        weights = [{"reconnect": 1, "cancel": 1, "place": 40, "guard": 30}.get(name, 12) for name in acts]
        [name] = self.random.choices(list(acts), weights)
        with suppress(Refused):
            acts[name]()
            self.done[name] = self.done.get(name, 0) + 1

    def handle(self, handles: list[OpenFile]) -> OpenFile:
        if not handles:
            raise Refused(4, "none")
        return self.random.choice(handles)

    def make(self, files: PolicyFiles) -> None:
        """A staged file with something sensible in it."""
        file = files.open(self.path(), WRITE | CREATE | TRUNCATE, Change())
        try:
            file.write(0, memoryview(self.random.choice(self.contents)))
        finally:
            file.close()

    def guard(self, files: PolicyFiles) -> None:
        """A guard, and something staged in it."""
        one, si = self.random.choice(self.tokens), b32encode(self.random.choice([SI, SLOT_SI]))
        for path in (f"locks/.{one}", f"locks/.{one}/{one}"):
            files.mkdir(path.encode(), Change())
        files.open(f"locks/.{one}/{one}/owner".encode(), WRITE | CREATE, Change()).close()
        files.replace(f"locks/.{one}".encode(), f"locks/{si}".encode())
        with suppress(Refused):
            self.make(files)

    def place(self, files: PolicyFiles) -> None:
        """What is staged, to where it belongs; often it is staged just before."""
        si, number = self.random.choice([SI, SLOT_SI]), self.random.choice([0, 1])
        text, one = b32encode(si), self.random.choice(self.tokens)
        source = self.random.choice([f"staging/{text}.{number}.{one}", f"locks/{text}/{one}/{number}"]).encode()
        if self.random.random() < 0.7:
            file = files.open(source, WRITE | CREATE | TRUNCATE, Change())
            with suppress(Refused):
                file.write(0, memoryview(self.random.choice(self.contents)))
            file.close()
        move = self.random.choice([files.rename, files.replace, files.link])
        move(source, f"shares/{text[:2]}/{text}/{number}".encode())

    def call(self, files: PolicyFiles) -> None:
        si = self.random.choice([SI, SLOT_SI])
        token = self.random.choice(self.tokens).encode()
        name, body = self.random.choice(
            [
                ("guard@lafs", b"\0" + si + string(b"")),
                ("guard@lafs", b"\1" + si + string(token)),
                ("guard@lafs", b"\2" + si + string(token)),
                ("replace@lafs", si + string(token) + b"\0" + b"\0\0\0\1" + bytes(4)),
            ]
        )
        files.extended(name, memoryview(body))

    def reconnect(self, at: int) -> None:
        for handle in self.handles[at]:
            handle.close()
        self.handles[at].clear()
        self.connections[at].close()
        self.connections[at] = self.connect()

    def check(self) -> None:
        """What stands proves; an immutable share that came outside of a guard is at least well formed."""
        for path in (self.root / "shares").glob("*/*/*"):
            if path.name in ("00", "notes"):
                continue
            si = {b32encode(si): si for si in (SI, SLOT_SI)}[path.parent.name]
            fd = os.open(path, os.O_RDONLY)
            try:
                assert path.stat().st_nlink == 1
                if is_mutable(os.pread(fd, 32, 0)):
                    seqnum = prove_mutable(fd, path.stat().st_size, si, int(path.name)).seqnum
                    assert seqnum >= 3 or si != SLOT_SI or path.name != "0"
                else:
                    well_formed(fd, path.stat().st_size, int(path.name))
            finally:
                os.close(fd)


def chaos(tmp_path: Path, policy: Policy, seed: int, steps: int) -> dict[str, int]:
    root = tmp_path / f"served{seed}"
    root.mkdir(parents=True)
    furnish(root)
    before = everything(root)
    identity = (root / "server.toml").read_bytes()
    run = Chaos(root, policy, seed)
    for step in range(steps):
        run.step()
        if step % 50 == 0:
            run.check()
    run.check()
    if policy.quota is not None:
        for files in run.connections:
            files.tick()
        record = PolicyFiles(root, policy)
        used = record._quota.used()
        assert used is not None
        assert used >= weight(root)
        assert weight(root) <= policy.quota
        record.close()
    for at in range(len(run.connections)):
        run.reconnect(at)
        run.connections[at].close()
    after = everything(root)
    for name in ("trash/2030-01-01/x", "quarantine/2030-01-01.x", "history/aa/x", "notes.txt", "shares/incoming/x"):
        assert after[name] == before[name]
    assert (root / "server.toml").read_bytes() == identity
    left = [path.name for path in (root / "locks").iterdir()]
    assert all(name.startswith(".broken.") for name in left), left
    assert not [name for name in after if ".probe." in name or ".clock." in name]
    assert SLOT in after
    assert SHARE in after or run.done.get("cancel")
    return run.done


def test_random_requests(tmp_path: Path) -> None:
    for seed in range(3):
        chaos(tmp_path, Policy(quota=300_000), seed, 500)


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [Policy(), Policy(quota=200_000), Policy(append_only=True, history=2, quota=1 << 20), Policy(append_only=True)],
    ids=["open", "quota", "append-only with a quota", "append-only"],
)
def test_many_random_requests(tmp_path: Path, policy: Policy) -> None:
    done: dict[str, int] = {}
    for seed in range(5):
        for name, count in chaos(tmp_path, policy, 100 + seed, 2000).items():
            done[name] = done.get(name, 0) + count
    assert done["place"] >= 5, done
    assert {"open", "make", "guard", "write", "place", "remove", "call"} <= set(done), done
