"""Changes under a guard, in processes that can be stopped or killed between any two steps on the server.

`Holders` starts a process that forks a child for each change: the child stops itself (SIGSTOP) before the step that
was asked for, then goes on or is killed as the test says. Nothing waits by sleeping.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lafscli.errors import GuardLost, LafsError
from lafscli.formats import container
from lafscli.formats.chk import Layout, Sizes
from lafscli.formats.container import share_path
from lafscli.storage import leases
from lafscli.storage.guard import FolderGuard
from lafscli.storage.local import LocalFiles
from lafscli.storage.locks import Locks
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.sshcommand import SshTarget
from lafscli.storage.store import (
    MANY_NAMES,
    Buffer,
    DirEntry,
    FileRange,
    Files,
    FileWriter,
    Lease,
    NewFile,
    Op,
    Reading,
    Server,
    Space,
    Stat,
)
from lafscli.storage.streams import open_stream
from lafscli.storage.trash import throw_away
from tests.scripted_sftp import PipeStream
from tests.served_folders import SocketStream

FOLDERS = ("shares", "staging", "locks", "trash", "quarantine")
ALL = frozenset({"rename-keeps", "folder-rename-keeps", "posix-rename", "hardlink", "fsync", "ordered"})
SEEN = frozenset({"ordered"})
"""Features that no server can be told to lack: it only is not known of one."""
DAY = "2030-12-31"
MAGIC = container.MUTABLE_MAGICS[1]
SHNUM = 0


def denied(without: Sequence[str]) -> str:
    """What `sftp-server` is told not to offer."""
    return ",".join(["statvfs", *(name for name in without if name not in SEEN)])


@dataclass(frozen=True)
class Reach:
    """A server and how to reach it: files here, or `sftp-server` on pipes without the extensions `denied`, or sshd, or
    `ServeProcess` at the socket `served`."""

    root: str
    features: tuple[str, ...] = tuple(sorted(ALL))
    denied: str | None = None
    ssh_config: str | None = None
    host: str = "s0"
    served: str | None = None

    @classmethod
    def of(cls, root: Path, *, without: Sequence[str] = (), pipes: bool = False) -> Reach:
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True)
        features = tuple(sorted(ALL - set(without)))
        return cls(str(root), features, denied(without) if pipes else None)

    def files(self) -> Files:
        if self.ssh_config is not None:
            config = Path(self.ssh_config)
            target = SshTarget(host=self.host, ssh_config=config, run_dir=None)
            return SftpFiles(lambda: open_stream(target), self.root, name="blue")
        if self.served is not None:
            socket = self.served
            return SftpFiles(lambda: SocketStream(socket, self.root), self.root, name="blue")
        if self.denied is None:
            return LocalFiles(Path(self.root))
        return SftpFiles(lambda: PipeStream(["-P", str(self.denied)]), self.root, name="blue")

    def locks(self, files: Files, **world: Any) -> Locks:
        server = Server("blue", bytes(20), bytes(20), features=frozenset(self.features))
        return Locks(server, files, random_bytes=os.urandom, **world)

    def path(self, name: str) -> Path:
        return Path(self.root, name)


# ---- changes ---------------------------------------------------------------------------------------------------


def counter(value: int) -> bytes:
    """A mutable container, as far as guards are concerned, with a number in it."""
    return MAGIC + b"%d" % value


def increment(files: Files, locks: Locks, si: bytes, _: str) -> bool:
    """Add one to the counter, as spec 10 §2.8 has it: what is in place and what was moved aside is the base."""
    with locks.wait(si, 60) as guard:
        return increment_under(files, locks, guard)


def increment_under(files: Files, locks: Locks, guard: FolderGuard) -> bool:
    found = locks.survivors(guard.si)
    asides = [survivor.path for survivor in found.containers if survivor.aside]
    paths = [share_path(guard.si, SHNUM), *asides]
    texts = files.read([FileRange(path, len(MAGIC), 20) for path in paths]).finish()
    base = max((int(bytes(text)) for text in texts if not isinstance(text, LafsError)), default=0)
    guard.stage([(SHNUM, [counter(base + 1)])])
    guard.commit([SHNUM], quarantine=False)
    locks.discard(found)
    return True


def replace(files: Files, locks: Locks, si: bytes, who: str) -> bool:
    """Replace bad immutable shares by good ones, streamed and moved in from staging."""
    shnums = (0, 1)
    staged = f"staging/{who}.{si.hex()}"
    files.create_many([NewFile(staged, [b"good " + who.encode()])], sync=False)
    with locks.wait(si, 60) as guard:
        heads = files.read([FileRange(share_path(si, shnum), 0, 3) for shnum in shnums]).finish()
        bad = [n for n, head in zip(shnums, heads, strict=True) if isinstance(head, LafsError) or bytes(head) == b"bad"]
        for shnum in bad:
            if shnum:
                guard.adopt(shnum, staged)
            else:
                writer = guard.create(shnum)
                writer.write(b"good ")
                writer.write(who.encode())
                writer.close(sync=True)
        guard.commit(bad, quarantine=True)
        return True


def lease_of(who: str) -> Lease:
    return Lease(who.encode().ljust(32), b"c" * 32, 1_900_000_000, 1)


def lease(files: Files, locks: Locks, si: bytes, who: str) -> bool:
    """Add a lease record."""
    with locks.wait(si, 60) as guard:
        assert leases.add_lease(files, guard, SHNUM, lease_of(who))
        return True


def trash(files: Files, locks: Locks, si: bytes, _: str) -> bool:
    """Throw a share away."""
    with locks.wait(si, 60) as guard:
        return throw_away(files, guard, [SHNUM], DAY) == {SHNUM: True}


CHANGES: dict[str, Callable[[Files, Locks, bytes, str], bool]] = {
    "increment": increment,
    "replace": replace,
    "lease": lease,
    "trash": trash,
}


def share(version: int | None = None) -> bytes:
    """An immutable share, as far as its own offsets go."""
    sizes = Sizes.plan(3, 10, 5000, 1 << 20)
    layout = Layout.build(sizes, version)
    ueb = b"u" * 300
    head = layout.serialise()
    return head.ljust(layout.uri_extension, b"x") + len(ueb).to_bytes(layout.length_size, "big") + ueb


def stored(data: bytes, *owners: str, version: int = 2) -> bytes:
    """A container of a share with these leases."""
    records = [
        container.lease_record(found.renew, found.cancel, found.expiration, owner=found.owner, version=version)
        for found in map(lease_of, owners)
    ]
    head = version.to_bytes(4, "big") + len(data).to_bytes(4, "big") + len(records).to_bytes(4, "big")
    return head + data + b"".join(records)


# ---- steps -----------------------------------------------------------------------------------------------------


class SteppedFiles:
    """A `Files` that calls `step` before everything that happens on the server, one thing at a time."""

    def __init__(self, files: Files, step: Callable[[], None]) -> None:
        self._files = files
        self._step = step

    @property
    def moved(self) -> float:
        return self._files.moved

    def connect(self) -> frozenset[str]:
        return self._files.connect()

    def close(self) -> None:
        self._files.close()

    def do(self, ops: Sequence[Op]) -> list[Any]:
        """As over SFTP: a file is made in its turn, its data comes after everything else."""
        answers: list[Any] = []
        open_: list[tuple[int, NewFile, FileWriter]] = []
        for op in ops:
            if isinstance(op, NewFile):
                try:
                    open_.append((len(answers), op, self.create(op.path)))
                    answers.append(None)
                except LafsError as error:
                    answers.append(error)
                continue
            self._step()
            answers += self._files.do([op])
        for index, new, writer in open_:
            answers[index] = _filled(new, writer, new.sync)
            if new.stat and answers[index] is None:
                self._step()
                [answers[index]] = self._files.do([Stat(new.path)])
        return answers

    def do_and_read(self, ops: Sequence[Op], wanted: Sequence[FileRange]) -> tuple[list[Any], Reading]:
        return self.do(ops), self.read(wanted)

    def listing(self, paths: Sequence[str], *, most: int = MANY_NAMES) -> list[list[DirEntry] | Any]:
        answers = []
        for path in paths:
            self._step()
            answers += self._files.listing([path], most=most)
        return answers

    def read(self, wanted: Sequence[FileRange]) -> Reading:
        self._step()
        return self._files.read(wanted)

    def release(self, path: str, keeper: int = 0) -> None:
        self._files.release(path, keeper)

    def create(self, path: str) -> FileWriter:
        self._step()
        return _SteppedWriter(self._files.create(path), self._step)

    def open_existing(self, path: str, *, append: bool = False) -> FileWriter:
        self._step()
        return _SteppedWriter(self._files.open_existing(path, append=append), self._step)

    def create_many(self, files: Sequence[NewFile], *, sync: bool) -> list[Any]:
        answers: list[Any] = []
        for new in files:
            try:
                writer = self.create(new.path)
            except LafsError as error:
                answers.append(error)
            else:
                answers.append(_filled(new, writer, sync))
                if new.stat and answers[-1] is None:
                    self._step()
                    answers[-1] = self._files.do([Stat(new.path)])[0]
        return answers

    def space(self) -> Space | None:
        return self._files.space()


def _filled(new: NewFile, writer: FileWriter, sync: bool) -> LafsError | None:
    try:
        for part in new.parts:
            writer.write(part)
        writer.close(sync=sync)
    except LafsError as error:
        writer.abandon()
        return error
    return None


class _SteppedWriter:
    def __init__(self, file: FileWriter, step: Callable[[], None]) -> None:
        self._file = file
        self._step = step
        self._pending = False

    @property
    def durable(self) -> int:
        return self._file.durable

    def write(self, data: Buffer) -> None:
        self._step()
        self._file.write(data)
        self._file.flush()

    def write_at(self, offset: int, data: Buffer) -> None:
        self._step()
        self._file.write_at(offset, data)
        self._file.flush()

    def flush(self) -> None:
        self._file.flush()

    def checkpoint(self) -> None:
        self._file.checkpoint()

    def close(self, *, sync: bool) -> None:
        self._step()
        self._file.close(sync=sync)

    def abandon(self) -> None:
        self._file.abandon()


# ---- processes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What became of a change: stopped before its step, or ended; `acknowledged` and `error` tell how."""

    stopped: bool
    acknowledged: bool = False
    error: str = ""
    """Name of the class of what was raised."""


class Holders:
    """A process whose children make changes; one at a time."""

    def __init__(self, reach: Reach) -> None:
        command = [sys.executable, "-m", "tests.guard_process", "serve", json.dumps(asdict(reach))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=Path(__file__).parents[1]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def start(self, change: str, si: bytes, step: int) -> State:
        """Begin a change that stops before the step of this number, counted from 0."""
        return self._ask("start", change, si.hex(), str(step))

    def resume(self) -> State:
        """Let it go on to its end."""
        return self._ask("resume")

    def kill(self) -> None:
        """Kill it where it is; it is gone when this returns."""
        self._ask("kill")

    def _ask(self, *words: str) -> State:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        return State(**json.loads(self._process.stdout.readline()))


def _serve(reach: Reach) -> None:
    child, pipe = 0, -1
    for line in sys.stdin:
        words = line.split()
        if words[0] == "start":
            pipe, answer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(pipe)
                _run(reach, words[1], bytes.fromhex(words[2]), int(words[3]), answer)
            os.close(answer)
        else:
            os.kill(child, signal.SIGCONT if words[0] == "resume" else signal.SIGKILL)
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            print(json.dumps({"stopped": True}), flush=True)
            continue
        with open(pipe) as answers:
            text = answers.read()
        print(text or json.dumps({"stopped": False, "error": "killed"}), flush=True)
        child = 0
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _run(reach: Reach, change: str, si: bytes, stop_at: int, answer: int) -> None:
    steps = 0

    def step() -> None:
        nonlocal steps
        if steps == stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        steps += 1

    outcome: dict[str, object] = {"stopped": False}
    code = 1
    try:
        files = SteppedFiles(reach.files(), step)
        try:
            outcome["acknowledged"] = CHANGES[change](files, reach.locks(files), si, "holder")
        except LafsError as error:
            outcome["error"] = type(error).__name__
        files.close()
        os.write(answer, json.dumps(outcome).encode())
        code = 0
    finally:
        os._exit(code)


def _count(reach: Reach, si: bytes, rounds: int) -> None:
    """Increment so many times, and tell which values it was that made."""
    files = reach.files()
    locks = reach.locks(files)
    made = []
    for _ in range(rounds):
        done = False
        while not done:
            try:
                with locks.wait(si, 120) as guard:
                    done = increment_under(files, locks, guard)
                    [text] = files.read([FileRange(share_path(si, SHNUM), len(MAGIC), 20)]).finish()
                    assert not isinstance(text, LafsError)
                    made.append(int(bytes(text)))
            except GuardLost:
                continue
    files.close()
    print(json.dumps(made))


def counting(reach: Reach, si: bytes, rounds: int) -> subprocess.Popen[str]:
    """A process that increments so many times and then prints the values it made, as a list."""
    command = [sys.executable, "-m", "tests.guard_process", "count", json.dumps(asdict(reach)), si.hex(), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


if __name__ == "__main__":
    given = Reach(**json.loads(sys.argv[2]))
    if sys.argv[1] == "serve":
        _serve(given)
    else:
        _count(given, bytes.fromhex(sys.argv[3]), int(sys.argv[4]))
