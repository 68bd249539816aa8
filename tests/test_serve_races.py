"""The policy against links, and against others who change the folder at the same moment."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import CREATE, FAILURE, READ, TRUNCATE, WRITE, Refused
from lafscli.server.policy import Policy
from tests.kept_shares import SI, SLOT_SI
from tests.policed import (
    NEW,
    SECRET,
    SHARE,
    SLOT,
    everything,
    folder_of,
    furnish,
    good,
    held,
    share_of,
    stage,
    take,
    talking,
    token,
    version,
)
from tests.raw_sftp import Attributes, RawClient

TEXT = b32encode(SI)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    root.mkdir()
    furnish(root)
    return root


@pytest.fixture
def outside(root: Path) -> Path:
    """A folder that looks like everything that is served, and is not."""
    outside = root.parent / "outside"
    shutil.copytree(root, outside)
    for path in outside.rglob("*"):
        if path.is_file():
            path.write_bytes(SECRET)
    return outside


def attempts(client: RawClient, mine: str, held_token: str) -> list[tuple[str, Callable[[], object]]]:
    """Everything that can be done below each folder; what is read must not be the secret."""

    def read(path: str) -> None:
        handle = client.open(path)
        try:
            assert client.read(handle, 0, 100) != SECRET, f"{path} was read through a link"
        finally:
            client.close(handle)

    def write(path: str, flags: int) -> None:
        handle = client.open(path, flags)
        try:
            client.write(handle, 0, b"written by a client")
        finally:
            client.close(handle)

    guard = f"locks/{b32encode(SLOT_SI)}"
    new = f"staging/{TEXT}.7.{mine}"
    return [
        ("read", lambda: read(SHARE)),
        ("read slot", lambda: read(SLOT)),
        ("list", lambda: _none_but(client.listdir(folder_of(SI)), {"0", "7"})),
        ("identity", lambda: read("server.toml")),
        ("patch", lambda: write(SHARE, WRITE)),
        ("patch slot", lambda: write(SLOT, READ | WRITE)),
        ("stage", lambda: write(new, NEW)),
        ("stage over", lambda: write(new, WRITE | CREATE | TRUNCATE)),
        ("resume", lambda: write(new, WRITE)),
        ("cut", lambda: client.setstat(new, Attributes(size=3))),
        ("hold", lambda: write(f"{guard}/{held_token}/7", NEW)),
        ("unhold", lambda: client.remove(f"{guard}/{held_token}/7")),
        ("owner", lambda: client.setstat(f"{guard}/{held_token}/owner", Attributes(times=(5, 5)))),
        ("adopt", lambda: client.replace(new, f"locks/{TEXT}/{held_token}/7")),
        ("place", lambda: client.rename(new, share_of(SI, 7))),
        ("replace", lambda: client.replace(f"{guard}/{held_token}/7", share_of(SLOT_SI, 7))),
        ("list staging", lambda: client.listdir("staging")),
        ("unstage", lambda: client.remove(new)),
        ("guard", lambda: client.mkdir(f"locks/.{mine}")),
        ("unguard", lambda: client.rmdir(f"locks/.{mine}")),
        ("mkdir", lambda: client.mkdir(f"shares/{TEXT[:2]}/{TEXT[:2]}{'a' * 24}")),
        ("probe", lambda: write(f"shares/.probe.{mine}", NEW)),
        ("unprobe", lambda: client.remove(f"shares/.probe.{mine}")),
        ("server.toml", lambda: client.rename(f"staging/server.toml.{mine}", "server.toml")),
    ]


def _none_but(names: list[str], wanted: set[str]) -> None:
    assert set(names) <= wanted


LINKED = [
    *("shares", f"shares/{TEXT[:2]}", folder_of(SI), SHARE, SLOT, "staging", "locks", "server.toml"),
    f"locks/{b32encode(SLOT_SI)}",
]


SLOW = [pytest.param(sort, marks=pytest.mark.slow) for sort in ("folder outside", "dangling", "itself")]


@pytest.mark.parametrize("sort", ["absolute", *SLOW])
@pytest.mark.parametrize("linked", LINKED)
def test_no_link_is_followed(root: Path, outside: Path, linked: str, sort: str) -> None:
    before = everything(outside)
    with talking(root) as client, talking(root) as other:
        mine = take(client).rpartition("/")[2]
        there = root / linked
        there.rename(root.parent / "moved")
        target = {
            "folder outside": os.path.relpath(outside / linked, there.parent),
            "dangling": "nowhere",
            "itself": there.name,
            "absolute": str(outside / linked),
        }[sort]
        there.symlink_to(target)
        for name, act in attempts(client, token(), mine):
            with suppress(Refused):
                act()
            assert everything(outside) == before, f"{name} went through a link"
        assert os.readlink(there) == target, "the link itself was changed"
        there.unlink()
        (root.parent / "moved").rename(there)
        assert other.get(SHARE) == good()


@contextmanager
def swapping(root: Path, outside: Path, linked: str) -> Iterator[None]:
    """Another process that swaps a name for a link to outside and back, until it is stopped."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)
        there, moved = root / linked, root.parent / "moved"
        link = root.parent / "link"
        os.set_blocking(reader, False)
        try:
            for _ in itertools.count():
                link.symlink_to(outside / linked)
                there.rename(moved)
                with suppress(OSError):  # where the server has made a folder of that name meanwhile
                    link.rename(there)
                while moved.exists():
                    with suppress(OSError):
                        shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink()
                    with suppress(OSError):
                        moved.rename(there)
                link.unlink(missing_ok=True)
                with suppress(BlockingIOError):
                    if not os.read(reader, 1):
                        os._exit(0)
        finally:
            os._exit(1)
    os.close(reader)
    try:
        yield
    finally:
        os.close(writer)
        assert os.waitpid(pid, 0)[1] == 0, "the swapping process failed"


@pytest.mark.parametrize("linked", [*LINKED[1:4], LINKED[8], "staging", "locks", "shares"])
def test_no_link_is_followed_that_comes_at_the_wrong_moment(root: Path, outside: Path, linked: str) -> None:
    before = everything(outside)
    rounds = 15
    done: set[str] = set()
    with talking(root) as client:
        mine = take(client).rpartition("/")[2]
        with swapping(root, outside, linked):
            for _ in range(rounds):
                for name, act in attempts(client, token(), mine):
                    with suppress(Refused):
                        act()
                        done.add(name)
        assert everything(outside) == before
    with talking(root) as client:
        assert client.get(SHARE) == good()
        assert client.get(SLOT) == version(3)
    assert done, "something must have worked in between"


def test_a_file_that_is_judged_keeps_its_name(root: Path) -> None:
    """One connection puts it in place again and again, another takes it away and puts garbage under its name."""
    for round_ in range(40):
        shnum = 1 + round_ % 3
        target = share_of(SI, shnum)
        staged = f"staging/{TEXT}.{shnum}.{token()}"
        with talking(root) as client:
            client.put(staged, good(shnum))
            pid = os.fork()
            if not pid:
                with suppress(BaseException), talking(root) as other:
                    for _ in range(20):
                        with suppress(Refused):
                            other.remove(staged)
                            other.put(staged, b"garbage")
                os._exit(0)
            for _ in range(20):
                with suppress(Refused):
                    client.rename(staged, target)
            os.waitpid(pid, 0)
            with suppress(Refused):
                assert client.get(target) == good(shnum)
        (root / target).unlink(missing_ok=True)


def test_of_many_who_want_one_place_one_gets_it(root: Path) -> None:
    pids = []
    for _ in range(6):
        pid = os.fork()
        if not pid:
            code = 1
            with suppress(BaseException), talking(root) as client:
                path = stage(client, good(1), shnum=1)
                try:
                    client.rename(path, share_of(SI, 1))
                    code = 7
                except Refused as refused:
                    code = 0 if refused.code == FAILURE else 2
            os._exit(code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert sorted(codes) == [0, 0, 0, 0, 0, 7]
    assert (root / share_of(SI, 1)).read_bytes() == good(1)


def test_a_folder_that_is_gone_is_no_more_than_refused(root: Path) -> None:
    with talking(root) as client:
        path = held(client, version(4))
        shutil.rmtree(root / "locks")
        for act in (
            lambda: client.replace(path, SLOT),
            lambda: client.setstat(path, Attributes(size=1)),
            lambda: client.listdir("locks"),
            lambda: client.remove(path),
        ):
            with pytest.raises(Refused, match="no such"):
                act()
        client.mkdir("locks")
        client.replace(held(client, version(4)), SLOT)
        assert client.get(SLOT) == version(4)


def test_pipes_and_sockets_are_not_opened(root: Path) -> None:
    before = everything(root)
    place = root / folder_of(SI) / "5"
    staged = root / "staging" / f"{TEXT}.5.{token()}"
    os.mkfifo(place)
    os.mkfifo(staged)
    with talking(root, Policy()) as client:
        for path in (f"{folder_of(SI)}/5", f"staging/{staged.name}"):
            for flags in (READ, READ | WRITE, WRITE | CREATE, WRITE | CREATE | TRUNCATE, NEW):
                with pytest.raises(Refused):
                    client.open(path, flags)
            with pytest.raises(Refused):
                client.remove(path)
        with pytest.raises(Refused):
            client.rename(f"staging/{staged.name}", share_of(SI, 5))
    place.unlink()
    staged.unlink()
    assert everything(root) == before
