"""gc and unpin as processes: what they print, what they exit with, what is left when they are killed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lafscli.config.collecting import alone, beside
from lafscli.config.home import Home
from lafscli.errors import Busy
from lafscli.formats import caps
from tests.grids import content
from tests.homes import age
from tests.lafs_process import Lafs
from tests.sshd import SshServers

SIZE = 300
NOTHING = {"shares": 0, "bytes": 0}


class Keeper:
    """A home with four servers that are folders, an alias `lafs`, and a file that is linked there as `kept`."""

    def __init__(self, lafs: Lafs) -> None:
        self.lafs = lafs

    @property
    def grid(self) -> Path:
        return self.lafs.folder / "grid"

    def put(self, seed: int, *target: str) -> Any:
        source = self.lafs.folder / "source"
        source.write_bytes(content(SIZE, seed))
        return self.lafs.json("put", source, *target)

    def waste(self, *seeds: int) -> list[Any]:
        """Files that nothing leads to, two days old."""
        pins = (self.lafs.home / "pins").read_text()
        lines = []
        for seed in seeds:
            (self.lafs.folder / f"source{seed}").write_bytes(content(SIZE, seed))
            lines.append(f"put source{seed}")
        done = self.lafs("batch", "--json", input="\n".join(lines).encode(), code=0)
        (self.lafs.home / "pins").write_text(pins)
        age(self.grid, 2)
        return [json.loads(line) for line in done.stdout.decode().splitlines()]

    def shares(self, put: Any) -> list[Path]:
        si = put["storage_index"]
        return sorted(self.grid.glob(f"*/shares/{si[:2]}/{si}/*"))

    def trash(self) -> list[Path]:
        return sorted(self.grid.glob("*/trash/*/*"))

    def get(self, cap: str) -> bytes:
        return self.lafs("cat", cap, code=0).stdout

    def refused(self, word: str, *options: str, code: int = 11) -> None:
        """Both ways, and nothing is changed."""
        before = sorted(self.grid.rglob("*"))
        for arguments in ([], ["--delete"]):
            done = self.lafs("gc", *arguments, *options, code=code)
            assert word in done.stderr.decode(), done.stderr.decode()
            assert done.stdout == b""
        assert sorted(self.grid.rglob("*")) == before


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gc")
    lafs = Lafs(folder)
    lafs("init", "--encoding", "2/3/4", code=0)
    (folder / "grid").mkdir()
    lines = [f"server add s{i} file://{folder}/grid/s{i}" for i in range(4)]
    lafs("batch", input="\n".join([*lines, "alias create lafs"]).encode(), code=0)
    Keeper(lafs).put(0, "kept")
    age(folder / "grid", 2)
    return folder


@pytest.fixture
def keeper(template: Path, tmp_path: Path) -> Keeper:
    """A copy of what was made once; the configuration names the folders of the copy."""
    folder = tmp_path / "copy"
    shutil.copytree(template, folder)
    config = folder / "home" / "config.toml"
    config.write_text(config.read_text().replace(str(template), str(folder)))
    return Keeper(Lafs(folder))


def text(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stdout.decode()


# ---- gc


def test_count_delete_undo(keeper: Keeper) -> None:
    [waste] = keeper.waste(1)
    size = keeper.shares(waste)[0].stat().st_size
    planned = keeper.lafs.json("gc")
    assert planned == {
        "schema": 1,
        "objects": 1,
        "shares": 4,
        "bytes": 4 * size,
        "by_server": {f"s{i}": {"shares": 1, "bytes": size} for i in range(4)},
        "skipped": [],
        "deleted": False,
        "reached": 2,
        "restored": NOTHING,
        "purged": NOTHING,
        "failed": [],
    }
    done = keeper.lafs("gc", code=0)
    first = text(done).splitlines()[0]
    assert first == "1 object that nothing leads to: 4 shares (3.1 kB) would go to the trash"
    assert b"nothing was changed: lafs gc --delete does it" in done.stderr
    assert len(keeper.shares(waste)) == 4
    assert keeper.lafs.json("gc", "--delete") == {**planned, "deleted": True}
    assert (keeper.shares(waste), len(keeper.trash())) == ([], 4)
    back = keeper.lafs.json("gc", "--undo")
    assert back == {key: planned[key] for key in list(planned)[:7]} | {"failed": []}
    assert keeper.get(waste["cap"]) == content(SIZE, 1)
    done = keeper.lafs("gc", "--undo", code=0)
    assert text(done) == "0 objects: 0 shares back in place (0 B)\n"


def test_what_went_is_removed_by_a_later_run(keeper: Keeper) -> None:
    keeper.waste(1)
    keeper.lafs("gc", "--delete", "--grace", "0s", code=0)
    assert keeper.lafs.json("gc")["purged"] == NOTHING
    assert "4 shares (3.1 kB) there would go for good" in text(keeper.lafs("gc", "--grace", "0s", code=0))
    for day in keeper.grid.glob("*/trash/*"):
        day.rename(day.with_name("2026-01-31"))
    assert "removed from there for good" in text(keeper.lafs("gc", "--delete", code=0))
    assert keeper.trash() == []


def test_what_stays_is_counted_with_the_reason(keeper: Keeper) -> None:
    keeper.put(2)
    (keeper.lafs.home / "pins").write_text("")
    done = keeper.lafs("gc", "--json", code=0)
    assert "4 shares left: they were stored or renewed less than a day ago" in done.stderr.decode()
    skipped = json.loads(done.stdout)["skipped"]
    assert skipped == [{"reason": "they were stored or renewed less than a day ago", "count": 4}]


def test_roots(keeper: Keeper) -> None:
    """What is reached by a pin, by an alias that is hidden, by --root."""
    pinned, made = keeper.put(1), keeper.lafs.json("mkdir")
    [waste, other] = keeper.waste(2, 3)
    (keeper.lafs.folder / "cap").write_text(waste["verify_cap"])
    assert keeper.lafs.json("gc", "--root", "@cap")["objects"] == 1
    keeper.lafs("gc", "--root", "lafs:nowhere", "--delete", code=3)
    assert keeper.trash() == []
    with (keeper.lafs.home / "aliases").open("a") as file:
        file.write(f"two: {other['cap']}\ntwo: {waste['cap']}\n")
    assert keeper.lafs.json("gc")["objects"] == 0
    keeper.lafs("batch", input=f"unpin {pinned['verify_cap']}\nunpin {made['cap']}".encode(), code=0)
    done = keeper.lafs.json("gc", "--delete")
    assert (done["objects"], done["shares"]) == (2, 8)
    assert keeper.get("lafs:kept") == content(SIZE, 0)


@pytest.mark.slow
def test_another_home_on_the_grid(keeper: Keeper, tmp_path: Path) -> None:
    """What it has stored is not ours, and what it has renewed stays."""
    other = Keeper(Lafs(keeper.lafs.folder / "other"))
    other.lafs("init", code=0)
    shutil.copy(keeper.lafs.home / "config.toml", other.lafs.home / "config.toml")
    theirs = other.put(5)
    [waste, lent] = keeper.waste(1, 2)
    (other.lafs.home / "aliases").write_text(f"lent: {lent['cap']}\n")
    other.lafs("renew", code=0)
    age(keeper.grid, 2)
    done = keeper.lafs.json("gc", "--delete")
    assert (done["objects"], done["shares"]) == (1, 4)
    assert done["skipped"] == [
        {"reason": "they carry a live lease of another home", "count": 4},
        {"reason": "they carry no lease of this home", "count": 4},
    ]
    assert keeper.shares(waste) == []
    assert [other.get(put["cap"]) for put in (lent, theirs)] == [content(SIZE, 2), content(SIZE, 5)]


# ---- refusals


def test_a_silent_server(keeper: Keeper) -> None:
    keeper.waste(1)
    (keeper.grid / "s1").rename(keeper.lafs.folder / "away")
    keeper.refused("lafs: server s1: its server.toml is gone")
    document = keeper.lafs.json("gc", "--delete", code=11)
    assert document["error"]["kind"] == "Partial"
    assert document["error"]["message"].startswith("nothing was deleted: ")
    for i in (0, 2, 3):
        (keeper.grid / f"s{i}").rename(keeper.lafs.folder / f"away{i}")
    keeper.lafs("gc", "--delete", code=8)


@pytest.mark.slow
def test_an_unreadable_directory(keeper: Keeper) -> None:
    keeper.waste(1)
    made = keeper.lafs.json("mkdir", "lafs:dir")
    si = keeper.lafs.json("cap", "show", made["cap"])["storage_index"]
    for path in list(keeper.grid.glob(f"*/shares/*/{si}/*"))[:3]:
        path.unlink()
    keeper.refused("lafs: lafs:dir: what is in it is not known: ")


def _append(name: str, line: str) -> Callable[[Keeper], object]:
    def change(keeper: Keeper) -> None:
        with (keeper.lafs.home / name).open("a") as file:
            file.write(line + "\n")

    return change


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda keeper: (keeper.lafs.home / "aliases").unlink(), "aliases is gone"),
        (lambda keeper: (keeper.lafs.home / "aliases").write_text("# none\n"), "no aliases and no pins"),
        (_append("aliases", "a garbled line"), "line 2 of"),
        (_append("aliases", "x: ro.URI:FUTURE:x"), "x:: it is of a kind that lafs does not know"),
        (_append("pins", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")), "pin 1: "),
    ],
    ids=["no aliases", "no roots", "line", "future alias", "no text"],
)
def test_roots_that_are_in_doubt(keeper: Keeper, spoil: Callable[[Keeper], object], word: str) -> None:
    spoil(keeper)
    done = keeper.lafs("gc", "--delete", code=11)
    assert word in done.stderr.decode()


def test_gc_is_off_until_it_is_adopted(keeper: Keeper, tmp_path: Path) -> None:
    keeper.waste(1)
    marker = keeper.lafs.home / "state" / "gc-not-adopted"
    marker.touch()
    keeper.refused("gc is off")
    done = keeper.lafs("gc", "--adopt", code=0)
    assert b"gc is on: " in done.stderr
    assert text(done).startswith("1 object that nothing leads to: 4 shares")
    assert not marker.exists()
    assert keeper.lafs.json("gc", "--delete")["shares"] == 4


def test_a_home_from_a_tahoe_node_has_it_off(tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "private").mkdir(parents=True)
    (node / "tahoe.cfg").write_text("[client]\nshares.needed = 1\nshares.happy = 1\nshares.total = 1\n")
    lafs = Lafs(tmp_path / "client")
    lafs("init", "--from-tahoe", node, code=0)
    assert (lafs.home / "state" / "gc-not-adopted").exists()
    lafs("server", "add", "s0", f"file://{tmp_path}/s0", code=0)
    assert b"lafs gc --adopt" in lafs("gc", code=11).stderr


def test_options_that_contradict_one_another(keeper: Keeper) -> None:
    keeper.lafs("gc", "--undo", "--grace", "1d", code=2)
    keeper.lafs("gc", "--adopt", "--delete", code=2)


def test_two_at_once(keeper: Keeper) -> None:
    handle = os.open(keeper.lafs.home / ".gc-lock", os.O_RDWR | os.O_CREAT, 0o600)
    for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        fcntl.flock(handle, kind)
        assert b"another lafs gc of this home is running" in keeper.lafs("gc", code=12).stderr
    keeper.lafs("gc", "--undo", code=12)
    waiting = keeper.lafs.start("gc", "--lock-wait", "1m", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(handle)
    assert waiting.communicate(timeout=60)[0].startswith(b"0 objects")
    assert waiting.returncode == 0


# ---- killed


def _kill_in_the_middle(keeper: Keeper, waste: list[Any], moments: int) -> None:
    """kill -9 as soon as some shares are in the trash; the next run does the rest, and all that is reached reads."""
    total = 4 * len(waste)
    for moment in range(1, moments + 1):
        enough = total * moment // (moments + 1)
        process = keeper.lafs.start("gc", "--delete", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(keeper.trash()) < enough:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        in_place = sum(len(keeper.shares(put)) for put in waste)
        held = len([path for path in keeper.grid.glob("*/locks/*/*/old.*") if path.name[4:].isdigit()])
        assert in_place + held + len(keeper.trash()) >= total, "nothing is lost"
        assert keeper.get("lafs:kept") == content(SIZE, 0)
    keeper.lafs("gc", "--delete", code=0)
    # one that was killed between the two names of a share may have left both
    assert len({(path.parents[2], path.name[:28]) for path in keeper.trash()}) == total
    _all_back(keeper, waste)
    assert not list(keeper.grid.glob("*/locks/**/old.*"))


def _all_back(keeper: Keeper, waste: list[Any]) -> None:
    """Also what was in the hands of a run that has ended."""
    keeper.lafs("gc", "--undo", code=0)
    assert all(len(keeper.shares(put)) == 4 for put in waste)
    read = keeper.lafs("cat", *(put["cap"] for put in waste), code=0).stdout
    assert len(read) == SIZE * len(waste)


@pytest.mark.slow
def test_killed_in_the_middle(keeper: Keeper) -> None:
    _kill_in_the_middle(keeper, keeper.waste(*range(1, 13)), 2)


@pytest.mark.slow
def test_killed_at_many_moments(keeper: Keeper) -> None:
    _kill_in_the_middle(keeper, keeper.waste(*range(1, 100)), 12)


@pytest.mark.slow
def test_interrupted(keeper: Keeper) -> None:
    waste = keeper.waste(*range(1, 20))
    process = keeper.lafs.start("gc", "--delete", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not keeper.trash():
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) in (130, 0)
    _all_back(keeper, waste)


# ---- pins


def test_unpin(keeper: Keeper) -> None:
    (keeper.lafs.folder / "lit").write_bytes(b"lit")
    first, second, literal = keeper.put(1), keeper.put(2), keeper.lafs.json("put", "lit")
    pins = keeper.lafs.home / "pins"
    mode = pins.stat().st_mode
    assert len(pins.read_text().splitlines()) == 3
    done = keeper.lafs("unpin", first["cap"], code=0)
    assert text(done) == "unpinned\n"
    assert b"its space comes back with lafs gc" in done.stderr
    assert b"pins" in keeper.lafs("unpin", first["cap"], code=3).stderr
    (keeper.lafs.folder / "cap").write_text(second["verify_cap"])
    lines = f"unpin {literal['cap']}\nln {second['cap']} lafs:two\nunpin lafs:two\nput source\n"
    keeper.lafs("batch", input=lines.encode(), code=0)
    assert pins.read_text() == second["cap"] + "\n"
    assert keeper.lafs.json("unpin", "@cap") == {"schema": 1, "removed": 1}
    assert (pins.read_text(), pins.stat().st_mode) == ("", mode)


@pytest.mark.slow
def test_what_gets_a_name_under_a_cap_is_pinned(keeper: Keeper) -> None:
    """A directory of somebody else leads to it, and no alias of ours."""
    theirs = keeper.lafs.json("mkdir")["cap"]
    (keeper.lafs.home / "pins").write_text("")
    read_cap = keeper.lafs.json("cap", "show", theirs)["read_cap"]
    linked, moved = keeper.put(1, "lafs:a"), keeper.put(2, "lafs:b")

    def pins() -> list[str]:
        return (keeper.lafs.home / "pins").read_text().splitlines()

    keeper.lafs("ln", "lafs:a", f"{theirs}/a", code=0)
    assert pins() == [linked["cap"]]
    keeper.lafs("mv", "lafs:b", f"{theirs}/b", code=0)
    assert pins() == [linked["cap"], moved["cap"]]
    keeper.lafs("cp", keeper.lafs.folder / "source", f"{theirs}/c", code=0)
    assert pins() == [linked["cap"], moved["cap"], read_cap]
    alias = str(caps.parse((keeper.lafs.home / "aliases").read_text().partition(":")[2].strip()))
    keeper.lafs("ln", "lafs:a", f"{alias}/again", code=0)
    keeper.lafs("ln", "URI:LIT:krugkidfnzsc4", f"{theirs}/lit", code=0)
    assert len(pins()) == 3


# ---- over ssh


@pytest.mark.slow
def test_over_ssh(tmp_path: Path, start_servers: Callable[..., SshServers]) -> None:
    """The same on sshd; one that stops makes it refuse."""
    servers = start_servers(3)
    lafs = Lafs(tmp_path / "client")
    lafs("init", "--encoding", "2/3/3", code=0)
    lafs.add_servers(servers)
    lafs("alias", "create", "lafs", code=0)
    sources = [lafs.folder / f"f{seed}" for seed in range(20)]
    for seed, source in enumerate(sources):
        source.write_bytes(content(SIZE, seed))
    lafs("cp", *sources, "lafs:", code=0)
    lafs("rm", *(f"lafs:f{seed}" for seed in range(10)), code=0)
    age(servers.folder, 2)
    done = lafs.json("gc", "--delete")
    assert (done["objects"], done["shares"], done["skipped"]) == (10, 30, [])
    assert lafs.json("gc")["objects"] == 0
    assert lafs("cat", *(f"lafs:f{seed}" for seed in range(10, 20)), code=0).stdout == b"".join(
        content(SIZE, seed) for seed in range(10, 20)
    )
    assert lafs.json("gc", "--undo")["shares"] == 30
    lafs("gc", "--delete", code=0)
    servers.stop(1)
    lafs("gc", "--delete", "--grace", "0s", code=11)
    servers.start(1)
    assert lafs.json("gc", "--delete", "--grace", "0s")["purged"]["shares"] == 30


def test_a_run_that_no_collection_may_meet(keeper: Keeper) -> None:
    """For what relies on what it has seen: others of its kind go on, a collection waits, and the other way round."""
    home = Home.find(str(keeper.lafs.home))
    with beside(home), beside(home), pytest.raises(Busy), alone(home):
        pass
    with alone(home), pytest.raises(Busy), beside(home):
        pass
