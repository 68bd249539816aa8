"""Changes of one mutable file, in processes that can be stopped or killed between any two steps on any server.

`Writers` starts a process that forks a child for each change, as `guard_process.Holders` does for one server. A file
lies on `count` servers below one folder; a change is a word added to its content, or all of it overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lafscli.errors import LafsError
from lafscli.mutable.publish import Publishing, create, modify, overwrite
from lafscli.mutable.retrieve import Reading, Retrieved, contents
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from lafscli.proof.slotkeys import write_cap
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid
from lafscli.storage.store import Files, Server
from tests.guard_process import ALL, FOLDERS, Reach, State, SteppedFiles
from tests.simulation.scenario import KEY, adding

CAP = write_cap(KEY, mdmf=False)
PATIENCE = 120.0


class Clock:
    """Time that passes by sleeping alone, and at once."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class Place:
    """Servers s0 … in folders below `base`, and how to reach them: as `Reach` has it."""

    base: str
    count: int
    encoding: tuple[int, int, int]
    lacks: tuple[str, ...] = ()
    pipes: bool = True
    ssh_config: str | None = None
    served: str | None = None
    lock_seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        table = json.loads(text)
        return cls(**{**table, "encoding": tuple(table["encoding"]), "lacks": tuple(table["lacks"])})

    def text(self) -> str:
        return json.dumps(asdict(self))

    def root(self, index: int) -> Path:
        return Path(self.base, f"s{index}")

    def make(self) -> Self:
        """The folders of servers that hold nothing."""
        for index, server in enumerate(self.servers()):
            for folder in FOLDERS:
                (self.root(index) / folder).mkdir(parents=True)
            node_id, seed = b32encode(server.node_id), b32encode(server.seed)
            text = f'version = 1\nnode-id = "{node_id}"\npermutation-seed = "{seed}"\n'
            (self.root(index) / "server.toml").write_text(text)
        return self

    def servers(self) -> list[Server]:
        features = ALL - set(self.lacks)
        return [
            Server(f"s{i}", hashlib.sha256(b"node %d" % i).digest()[:20], b"seed %d" % i, None, True, features)
            for i in range(self.count)
        ]

    def files(self, index: int) -> Files:
        denied = ",".join(["statvfs", *self.lacks]) if self.pipes else None
        return Reach(str(self.root(index)), (), denied, self.ssh_config, f"s{index}", self.served).files()

    def grid(
        self,
        *,
        wrap: Callable[[int, Files], Files] = lambda index, files: files,
        without: Sequence[int] = (),
        **world: Any,
    ) -> Grid:
        """A client's view of the servers; those in `without` can't be reached. `world` is for `Locks`."""
        stores = []
        for index, server in enumerate(self.servers()):
            files = Absent() if index in without else wrap(index, self.files(index))
            store = FolderStore(server, files, random_bytes=os.urandom)
            if self.lock_seconds is not None:
                world = {"lock_seconds": self.lock_seconds, **world}
            if world:
                store.locks = Reach(str(self.root(index)), tuple(server.features)).locks(files, **world)
            stores.append(store)
        return Grid(stores)

    def publishing(self, clock: Clock | None = None) -> Publishing:
        return Publishing(
            encoding=Encoding(*self.encoding),
            lease_secret=b"l" * 32,
            now=1_800_000_000,
            random_bytes=os.urandom,
            seen=None,
            membership=None,
            patience=PATIENCE,
            monotonic=clock or time.monotonic,
            sleep=clock.sleep if clock else time.sleep,
        )

    def create(self, content: bytes = b"") -> None:
        with self.local().grid() as grid:
            create(grid, content, self.publishing(), mdmf=False, private=KEY)

    def copy(self, base: Path) -> Place:
        """The same servers, with what they hold, in another folder."""
        shutil.copytree(self.base, base)
        return replace(self, base=str(base))

    def local(self) -> Place:
        """The same, reached without a server."""
        return Place(self.base, self.count, self.encoding, self.lacks, pipes=False)

    def content(self) -> bytes:
        """What a reader gets."""
        with self.local().grid() as grid:
            return read(grid)[0]

    def left(self) -> dict[str, list[str]]:
        """What lies in `locks/` of each server that has something there."""
        found = {f"s{i}": sorted(path.name for path in (self.root(i) / "locks").iterdir()) for i in range(self.count)}
        return {name: names for name, names in found.items() if names}

    def seqnums(self) -> dict[str, int]:
        """The version of each share that lies in place."""
        return {
            f"s{i}/{path.name}": int.from_bytes(path.read_bytes()[469:477], "big")
            for i in range(self.count)
            for path in (self.root(i) / "shares").glob("*/*/*")
        }


class Absent:
    """Files of a server that is not there."""

    def __getattr__(self, name: str) -> Any:
        from lafscli.errors import ServerUnreachable

        if name == "close":
            return lambda: None

        def call(*_: object, **__: object) -> Any:
            raise ServerUnreachable("connection refused")

        return call


def read(grid: Grid) -> tuple[bytes, Retrieved]:
    """What a reader gets."""
    return contents(grid, CAP, Reading(None, time.monotonic, time.sleep, os.urandom))


# ---- changes ---------------------------------------------------------------------------------------------------


def add(grid: Grid, place: Place, word: str, clock: Clock | None = None) -> None:
    modify(grid, CAP, adding(word.encode()), place.publishing(clock))


def write(grid: Grid, place: Place, text: str) -> None:
    overwrite(grid, CAP, text.encode(), place.publishing())


CHANGES = {"add": add, "write": write}


# ---- processes -------------------------------------------------------------------------------------------------


class Writers:
    """A process whose children make changes; one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.slot_process", "serve"]
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

    def start(self, place: Place, change: str, text: str, step: int) -> State:
        """Begin a change that stops before the step of this number, counted from 0 over all servers."""
        return self._ask("start", change, text, str(step), place.text())

    def resume(self) -> State:
        """Let it go on to its end."""
        return self._ask("resume")

    def kill(self) -> None:
        """Kill it where it is; it is gone when this returns."""
        self._ask("kill")

    def _ask(self, *words: str) -> State:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, sep="\t", file=self._process.stdin, flush=True)
        return State(**json.loads(self._process.stdout.readline()))


def _serve() -> None:
    child, pipe = 0, -1
    for line in sys.stdin:
        words = line.rstrip("\n").split("\t")
        if words[0] == "start":
            pipe, answer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(pipe)
                _run(Place.parse(words[4]), words[1], words[2], int(words[3]), answer)
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


def _run(place: Place, change: str, text: str, stop_at: int, answer: int) -> None:
    steps = 0
    turn = threading.Lock()

    def step() -> None:
        nonlocal steps
        with turn:
            if steps == stop_at:
                os.kill(os.getpid(), signal.SIGSTOP)
            steps += 1

    outcome: dict[str, object] = {"stopped": False}
    try:
        with place.grid(wrap=lambda _, files: SteppedFiles(files, step)) as grid:
            try:
                CHANGES[change](grid, place, text)
                outcome["acknowledged"] = True
            except LafsError as error:
                outcome["error"] = type(error).__name__
        os.write(answer, json.dumps(outcome).encode())
    finally:
        os._exit(0)


def _repeat(place: Place, change: str, texts: Sequence[str]) -> None:
    """Make one change after the other; a line for each that was acknowledged."""
    with place.grid() as grid:
        for text in texts:
            CHANGES[change](grid, place, text)
            print(text, flush=True)


def repeating(place: Place, change: str, texts: Sequence[str]) -> subprocess.Popen[str]:
    """A process that makes these changes, and writes a line for each that was acknowledged."""
    command = [sys.executable, "-m", "tests.slot_process", "repeat", place.text(), change, *texts]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve()
    else:
        _repeat(Place.parse(sys.argv[2]), sys.argv[3], sys.argv[4:])
