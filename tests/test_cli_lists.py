"""The list of the grid's servers on the command line: servers join, leave and are refused; homes tell each other (spec
10 §2.7, CLI.md §3)."""

from __future__ import annotations

import signal
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lafs_process import Lafs
from tests.sshd import SshServers


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    made = Lafs(tmp_path / "one")
    made("init", "--encoding", "2/2/3", code=0)
    return made


@pytest.fixture
def other(lafs: Lafs) -> Lafs:
    """Another home, of somebody else."""
    made = Lafs(lafs.folder.parent / "two")
    made("init", "--encoding", "2/2/3", code=0)
    return made


def folder(lafs: Lafs, name: str) -> Path:
    return lafs.folder.parent / "servers" / name


def url(lafs: Lafs, name: str) -> str:
    return f"file://{folder(lafs, name)}"


def add(lafs: Lafs, *names: str) -> None:
    for name in names:
        lafs("server", "add", name, url(lafs, name), code=0)


def there(lafs: Lafs, name: str) -> dict[str, Any]:
    return tomllib.loads((folder(lafs, name) / "server.toml").read_text())


def known(lafs: Lafs) -> dict[str, Any] | None:
    found: dict[str, Any] | None = tomllib.loads((lafs.home / "config.toml").read_text()).get("grid")
    return found


def node_id(lafs: Lafs, name: str) -> str:
    found: str = there(lafs, name)["node-id"]
    return found


def away(lafs: Lafs, name: str) -> None:
    folder(lafs, name).rename(folder(lafs, f"{name}.away"))


def back(lafs: Lafs, name: str) -> None:
    folder(lafs, f"{name}.away").rename(folder(lafs, name))


def hint(done: Any) -> str:
    *_, last = done.stderr.decode().splitlines()
    assert last.startswith("hint: ")
    return str(last)


# ---- added


def test_the_first_server_makes_a_grid_and_each_further_one_raises_its_epoch(lafs: Lafs) -> None:
    first = lafs.json("server", "add", "a", url(lafs, "a"))
    assert (first["epoch"], first["members"]) == (1, 1)
    assert there(lafs, "a")["members"] == [first["node_id"]]
    add(lafs, "b", "c")
    lists = [there(lafs, name) for name in "abc"]
    assert {each["grid"] for each in lists} == {first["grid"]}
    assert {each["epoch"] for each in lists} == {3}
    assert all(each["members"] == sorted(node_id(lafs, name) for name in "abc") for each in lists)
    assert not any("earlier" in each for each in lists)
    mine = known(lafs)
    assert mine is not None
    assert (mine["id"], mine["epoch"], mine["members"]) == (first["grid"], 3, lists[0]["members"])


def test_init_local_makes_one_list(lafs: Lafs) -> None:
    there = Lafs(lafs.folder.parent / "three")
    there("init", "--local", code=0)
    found = [tomllib.loads(path.read_text()) for path in (there.home / "grid").glob("*/server.toml")]
    assert [(each["epoch"], len(each["members"])) for each in found] == [(1, 10)] * 10
    assert len({each["grid"] for each in found}) == 1


@pytest.mark.parametrize("how", [["--readonly", "--node-id", "11" * 20], ["--option", "mutable=no"]])
def test_a_server_that_takes_nothing_mutable_has_no_say(lafs: Lafs, how: list[str]) -> None:
    add(lafs, "a")
    (folder(lafs, "b") / "shares").mkdir(parents=True)
    lafs("server", "add", "b", url(lafs, "b"), *how, code=0)
    assert there(lafs, "a")["members"] == [node_id(lafs, "a")]
    if "--readonly" in how:
        assert [path.name for path in folder(lafs, "b").iterdir()] == ["shares"]
    else:
        assert not {"grid", "epoch", "members"} & there(lafs, "b").keys()


def test_a_majority_must_answer(lafs: Lafs) -> None:
    add(lafs, "a", "b")
    away(lafs, "b")
    done = lafs("server", "add", "c", url(lafs, "c"), code=4)
    assert "1 of 2 servers" in done.stderr.decode()
    assert "lafs server remove" in hint(done)
    assert [each["name"] for each in lafs.json("server", "list")["servers"]] == ["a", "b"]
    assert there(lafs, "a")["epoch"] == 2
    lafs("server", "remove", "b", "--force", code=0)
    assert there(lafs, "a")["members"] == [node_id(lafs, "a")]
    add(lafs, "c")
    back(lafs, "b")
    add(lafs, "b")
    assert [there(lafs, name)["epoch"] for name in "abc"] == [5, 5, 5]


def test_two_processes_of_one_home_add_at_once(lafs: Lafs) -> None:
    names = [f"s{index}" for index in range(5)]
    running = [lafs.start("server", "add", name, url(lafs, name), "-q") for name in names]
    assert [each.wait() for each in running] == [0] * 5
    assert {there(lafs, name)["grid"] for name in names} == {(known(lafs) or {})["id"]}
    assert there(lafs, "s0")["members"] == sorted(node_id(lafs, name) for name in names)
    assert [there(lafs, name) | {"node-id": "", "permutation-seed": ""} for name in names] == [
        there(lafs, "s0") | {"node-id": "", "permutation-seed": ""}
    ] * 5


def test_two_homes_add_at_once(lafs: Lafs, other: Lafs) -> None:
    add(lafs, "a", "b", "c")
    lafs("grid", "export", lafs.folder / "grid.toml", code=0)
    other("grid", "import", lafs.folder / "grid.toml", code=0)
    running = [home.start("server", "add", name, url(lafs, name), "-q") for home, name in ((lafs, "d"), (other, "e"))]
    assert [each.wait() for each in running] == [0, 0]
    assert there(lafs, "a")["epoch"] == 5
    assert there(lafs, "a")["members"] == sorted(node_id(lafs, name) for name in "abcde")
    assert not any(list((folder(lafs, name) / "locks").iterdir()) for name in "abcde")


@pytest.mark.slow
def test_killed_while_it_changes_the_list(lafs: Lafs) -> None:
    """Whatever is left of it: the same command again ends well, and every server has one list."""
    add(lafs, "a", "b", "c")
    for number, seen in enumerate(("locks/*/*", "locks/*/*/owner", "locks/*/*/0", "never")):
        name, before = f"n{number}", there(lafs, "a")["epoch"]
        victim = lafs.start("server", "add", name, url(lafs, name), "-q")
        while victim.poll() is None and there(lafs, "a")["epoch"] == before:
            with suppress(FileNotFoundError):  # what the victim removes while it is looked into
                if list(folder(lafs, "a").glob(seen)):
                    break
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        done = lafs("server", "add", name, url(lafs, name))
        assert done.returncode == 0 or b"there is a server" in done.stderr
        lists = [there(lafs, each) for each in ("a", "b", "c", name)]
        assert len({(each["grid"], each["epoch"], tuple(each["members"])) for each in lists}) == 1
        assert (known(lafs) or {})["epoch"] == lists[0]["epoch"]
        assert node_id(lafs, name) in lists[0]["members"]


# ---- joined, refused


def test_a_server_that_is_a_member_is_joined_and_nothing_is_written(lafs: Lafs, other: Lafs) -> None:
    add(lafs, "a", "b", "c")
    lafs("mkdir", code=0)
    before = {path: path.read_bytes() for path in folder(lafs, "a").parent.rglob("*") if path.is_file()}
    done = other("server", "add", "mine", url(lafs, "a"), code=0)
    assert known(other) == known(lafs)
    assert "2 servers of the grid are not configured here" in done.stderr.decode()
    assert "lafs grid import" in hint(done)
    refused = other("mkdir", code=2)
    assert node_id(lafs, "b") in refused.stderr.decode()
    assert "lafs grid import" in hint(refused)
    assert {path: path.read_bytes() for path in folder(lafs, "a").parent.rglob("*") if path.is_file()} == before
    lafs("grid", "export", lafs.folder / "grid.toml", code=0)
    answer = other.json("grid", "import", lafs.folder / "grid.toml")
    assert (answer["added"], answer["known"], answer["epoch"]) == (["b", "c"], ["mine"], 3)
    other("mkdir", code=0)


def test_a_server_of_another_grid_is_refused(lafs: Lafs, other: Lafs) -> None:
    add(lafs, "a")
    add(other, "b")
    done = lafs("server", "add", "b", url(lafs, "b"), code=2)
    assert "another grid" in done.stderr.decode()
    assert "lafs --home" in hint(done)
    assert [each["name"] for each in lafs.json("server", "list")["servers"]] == ["a"]
    other("grid", "export", lafs.folder / "grid.toml", code=0)
    assert "another grid" in lafs("grid", "import", lafs.folder / "grid.toml", code=2).stderr.decode()


@pytest.mark.slow
def test_a_newer_list_stops_what_is_mutable_until_it_is_imported(lafs: Lafs, other: Lafs) -> None:
    add(lafs, "a", "b", "c")
    lafs("grid", "export", lafs.folder / "grid.toml", code=0)
    other("grid", "import", lafs.folder / "grid.toml", code=0)
    other("alias", "create", "x", code=0)
    other("mkdir", "x:d", code=0)
    add(lafs, "d")
    for refused in (other("mkdir", "x:e", code=2), other("mkdir", code=2)):
        assert "number 4, this home 3" in refused.stderr.decode()
        assert "lafs grid import" in hint(refused)
    assert other("ls", "x:", code=0).stdout == b"d\n"
    (other.folder / "f").write_bytes(bytes(1000))
    other("put", "f", code=0)
    assert "newer list" in other("server", "status", code=0).stderr.decode()
    lafs("grid", "export", lafs.folder / "grid.toml", code=0)
    other("grid", "import", lafs.folder / "grid.toml", code=0)
    other("mkdir", "x:e", code=0)
    assert other("ls", "x:", code=0).stdout == b"d\ne\n"


def test_an_older_file_does_not_turn_the_list_back(lafs: Lafs) -> None:
    add(lafs, "a", "b")
    lafs("grid", "export", lafs.folder / "old.toml", code=0)
    add(lafs, "c")
    before = known(lafs)
    lafs("grid", "import", lafs.folder / "old.toml", code=0)
    assert known(lafs) == before


@pytest.mark.parametrize("line", ["epoch = 0", 'epoch = "x"'])
def test_a_grid_file_whose_list_can_not_be_used(lafs: Lafs, line: str) -> None:
    add(lafs, "a")
    lafs("grid", "export", lafs.folder / "grid.toml", code=0)
    text = (lafs.folder / "grid.toml").read_text().replace("epoch = 1", line)
    (lafs.folder / "grid.toml").write_text(text)
    assert "[grid]" in lafs("grid", "import", lafs.folder / "grid.toml", code=2).stderr.decode()
    path = lafs.home / "config.toml"
    path.write_text(path.read_text().replace("epoch = 1", line))
    assert "[grid]" in lafs("server", "add", "b", url(lafs, "b"), code=2).stderr.decode()


def test_a_home_from_before_there_were_lists(lafs: Lafs, other: Lafs) -> None:
    """The first write makes the list; another such home takes it over."""
    add(lafs, "a", "b", "c")
    lafs("grid", "export", lafs.folder / "grid.toml", code=0)
    other("grid", "import", lafs.folder / "grid.toml", code=0)
    for path in (lafs.home / "config.toml", other.home / "config.toml"):
        before, _, after = path.read_text().partition("[grid]")
        path.write_text(before + "".join(after.partition("[servers")[1:]))
    for name in "abc":
        path = folder(lafs, name) / "server.toml"
        path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:3]))
    assert known(lafs) is known(other) is None
    lafs("mkdir", code=0)
    other("mkdir", code=0)
    assert there(lafs, "a")["epoch"] == 1
    assert known(lafs) == known(other)
    assert there(lafs, "a")["members"] == sorted(node_id(lafs, name) for name in "abc")


# ---- left


def test_a_removed_server_has_no_say(lafs: Lafs) -> None:
    add(lafs, "a", "b", "c")
    lafs("server", "remove", "c", code=0)
    assert [there(lafs, name)["epoch"] for name in "abc"] == [4] * 3
    assert there(lafs, "c")["members"] == sorted(node_id(lafs, name) for name in "ab")
    lafs("mkdir", code=0)
    add(lafs, "c")
    assert there(lafs, "c")["members"] == sorted(node_id(lafs, name) for name in "abc")


def test_without_a_majority_a_server_is_removed_only_by_force(lafs: Lafs) -> None:
    lafs("encoding", "1/1/3", code=0)
    add(lafs, "a", "b", "c", "d")
    away(lafs, "b")
    away(lafs, "c")
    before = known(lafs)
    assert "lafs server remove" in hint(lafs("server", "remove", "d", code=4))
    assert known(lafs) == before
    assert "without a majority" in lafs("server", "remove", "d", "--force", code=0).stderr.decode()
    assert there(lafs, "a")["members"] == sorted([node_id(lafs, "a"), node_id(lafs, "b.away"), node_id(lafs, "c.away")])


def test_the_last_server_takes_the_grid_with_it(lafs: Lafs) -> None:
    add(lafs, "a")
    lafs("server", "remove", "a", "--force", code=0)
    assert known(lafs) is None
    add(lafs, "b")
    add(lafs, "a")
    assert there(lafs, "a")["members"] == sorted([node_id(lafs, "a"), node_id(lafs, "b")])


def test_a_dead_server_of_two_is_replaced(lafs: Lafs) -> None:
    lafs("encoding", "1/1/2", code=0)
    add(lafs, "a", "b")
    lafs("alias", "create", "x", code=0)
    lafs("mkdir", "x:d", code=0)
    away(lafs, "b")
    lafs("server", "replace", "b", "c", url(lafs, "c"), "--force")
    assert there(lafs, "a")["members"] == sorted([node_id(lafs, "a"), node_id(lafs, "c")])
    assert there(lafs, "c")["members"] == there(lafs, "a")["members"]


@pytest.mark.slow
def test_an_earlier_list_counts_until_all_is_repaired(lafs: Lafs) -> None:
    """Three of six servers are no majority: what lies there only is missed by the three others."""
    lafs("encoding", "2/2/6", code=0)
    add(lafs, "a", "b", "c")
    lafs("alias", "create", "x", code=0)
    lafs("mkdir", "x:d", code=0)
    add(lafs, "d", "e")
    assert "earlier" not in there(lafs, "a")
    done = lafs("server", "add", "f", url(lafs, "f"), code=0)
    assert "2 mutable objects lie on too few" in done.stderr.decode()
    assert "lafs repair -r" in done.stderr.decode()
    assert len(there(lafs, "a")["earlier"]) == len((known(lafs) or {})["earlier"]) == 1
    told = lafs("server", "status", code=0).stderr.decode()
    assert "1 earlier list of the grid's servers still counts; lafs repair -r" in told
    lafs("repair", "-r", "x:", code=0)
    assert "earlier" not in there(lafs, "a")
    assert "earlier" not in (known(lafs) or {})
    assert there(lafs, "f") | {"node-id": "", "permutation-seed": ""} == there(lafs, "a") | {
        "node-id": "",
        "permutation-seed": "",
    }


# ---- over ssh


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[SshServers]:
    with SshServers(tmp_path / "sshd", 5) as running:
        yield running


def listed(servers: SshServers, i: int) -> dict[str, Any]:
    return tomllib.loads((servers.root(i) / "server.toml").read_text())


def over_ssh(lafs: Lafs, servers: SshServers, *indexes: int, code: int = 0) -> None:
    for i in indexes:
        option = f"ssh-config={servers.config}"
        lafs("server", "add", servers.name(i), servers.url(i), "--option", option, "--timeout", "5s", code=code)


@pytest.mark.slow
def test_grown_from_three_to_five_with_one_away_over_ssh(lafs: Lafs, servers: SshServers) -> None:
    """The directory stays writable with any majority of each list, and changes of then are seen later."""
    over_ssh(lafs, servers, 0, 1, 2)
    lafs("alias", "create", "x", code=0)
    lafs("mkdir", "x:first", code=0)
    servers.stop(2)
    over_ssh(lafs, servers, 3, 4)
    assert [listed(servers, i)["epoch"] for i in (0, 1, 2, 3, 4)] == [5, 5, 3, 5, 5]
    assert len((known(lafs) or {})["earlier"]) == 2
    lafs("mkdir", "x:second", code=0)
    servers.start(2)
    servers.stop(0)
    servers.stop(1)
    refused = lafs("mkdir", "x:third", "--timeout", "5s")
    assert refused.returncode in (4, 6), refused.stderr
    servers.start(0)
    servers.start(1)
    lafs("mkdir", "x:third", code=0)
    assert lafs("ls", "x:", code=0).stdout == b"first\nsecond\nthird\n"
    assert not any(list((servers.root(i) / "locks").iterdir()) for i in range(5))


@pytest.mark.slow
def test_joined_and_refused_over_ssh(lafs: Lafs, other: Lafs, servers: SshServers) -> None:
    over_ssh(lafs, servers, 0, 1, 2)
    over_ssh(other, servers, 0)
    assert known(other) == known(lafs)
    assert other("mkdir", code=2).stderr.count(b"not configured here") == 1
    over_ssh(other, servers, 1, 2)
    other("mkdir", code=0)
    assert listed(servers, 0)["epoch"] == 3
    stranger = replace(other, folder=other.folder.parent / "three")
    stranger("init", code=0)
    over_ssh(stranger, servers, 3)
    over_ssh(stranger, servers, 1, code=2)


@pytest.mark.slow
def test_without_posix_rename_over_ssh(lafs: Lafs, tmp_path: Path) -> None:
    with SshServers(tmp_path / "old", 3, denied="posix-rename@openssh.com") as servers:
        over_ssh(lafs, servers, 0, 1, 2)
        assert [listed(servers, i)["epoch"] for i in range(3)] == [3, 3, 3]
        assert not any(list(servers.root(i).glob("server.toml.*")) for i in range(3))
        lafs("mkdir", code=0)
