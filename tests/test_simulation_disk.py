"""The simulated file access answers what OpenSSH's sftp-server answers, request for request."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lafscli.errors import FileError
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import (
    FileRange,
    Files,
    FileStat,
    Link,
    List,
    Mkdir,
    NewFile,
    Op,
    Remove,
    Rename,
    Replace,
    Rmdir,
    Stat,
    Touch,
    Truncate,
)
from tests.scripted_sftp import PipeStream
from tests.simulation.files import SimulatedFiles
from tests.simulation.wire import Host
from tests.simulation.world import Process, World

LACKS = {"all": (), "no-posix-rename": ("posix-rename",), "v3": ("posix-rename", "hardlink", "fsync")}
PATHS = ["a", "b", "c", "a/x", "a/y", "b/x", "a/x/z", "c/w", "a/x/z/v"]


def drawn(chance: random.Random) -> Op:
    path, other = chance.choice(PATHS), chance.choice(PATHS)
    return chance.choice(
        [
            *(Mkdir(path), Mkdir(path), Rename(path, other), Rename(path, other), Replace(path, other)),
            *(Link(path, other), Remove(path), Rmdir(path), Touch(path, 1_000_000), Truncate(path, 3), Stat(path)),
            *(NewFile(path, [other.encode()]), NewFile(path, [b"x" * 9])),
        ]
    )


def said(answer: object) -> object:
    """What counts of an answer: the size of a folder and times but those we set are the system's own."""
    if isinstance(answer, FileError):
        return type(answer)
    if isinstance(answer, FileStat):
        return answer.kind, answer.size if answer.kind == "file" else None, answer.mtime == 1_000_000
    if isinstance(answer, list):
        return sorted((entry.name, said(entry.stat)) for entry in answer)
    return bytes(answer) if isinstance(answer, memoryview) else answer


def played(files: Files, seed: int) -> list[object]:
    chance = random.Random(seed)
    answers: list[object] = []
    for _ in range(40):
        new = [NewFile(chance.choice(PATHS), [b"%d" % chance.randrange(10**6)]) for _ in range(2)]
        answers += [said(answer) for answer in files.create_many(new, sync=False)]
        answers += [said(answer) for answer in files.do([drawn(chance) for _ in range(10)])]
        made = NewFile(chance.choice(PATHS), [b"abc"], stat=True)
        ops = [*(op for op in map(drawn, [chance] * 5) if not isinstance(op, NewFile)), made, List("a"), List("none")]
        done, reading = files.do_and_read(ops, [FileRange(path, 0, 5) for path in PATHS])
        answers += [said(answer) for answer in [*done, *reading.finish()]]
        answers += [said(answer) for answer in files.listing(["", "a", "b", "a/x", "none"])]
        wanted = [FileRange(chance.choice(PATHS), chance.randrange(3), 5) for _ in range(4)]
        answers += [said(answer) for answer in files.read(wanted).finish()]
        files.do([Remove(chance.choice(PATHS)) for _ in range(4)])
    return answers


@pytest.mark.parametrize("kind", list(LACKS))
def test_answers_are_those_of_openssh(tmp_path: Path, kind: str) -> None:
    for seed in range(8):
        (root := tmp_path / str(seed)).mkdir()
        real = SftpFiles(lambda: PipeStream(["-P", ",".join(["statvfs", *LACKS[kind]])]), str(root), name="real")
        wanted = played(real, seed)
        real.close()
        world = World(seed)
        client = Process(world, "client", 1)
        answers: list[object] = []
        files = SimulatedFiles(client, Host(world, "s0", LACKS[kind], 0.0))
        client.start("main", lambda: answers.extend(played(files, seed)))  # noqa: B023
        world.run(lambda: bool(answers))  # noqa: B023
        assert [pair for pair in enumerate(zip(answers, wanted, strict=True)) if pair[1][0] != pair[1][1]] == []
        assert len({str(answer) for answer in answers}) > 20
