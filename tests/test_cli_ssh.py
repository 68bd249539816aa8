"""Commands against real sshd: host keys, grid files, silence, rates (CLI.md §1, §3)."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lafs_process import Lafs
from tests.sshd import SshServers


@pytest.fixture
def lafs(short_tmp: Path) -> Lafs:
    made = Lafs(short_tmp)
    made("init", "--encoding", "1/2/2", code=0)
    return made


def _add(lafs: Lafs, servers: SshServers, *more: str) -> None:
    for i in range(servers.count):
        option = f"ssh-config={servers.config}"
        lafs("server", "add", servers.name(i), servers.url(i), "--option", option, *more, code=0)


def test_unknown_host_key_is_refused_and_accepted_when_asked(lafs: Lafs, ssh_server: SshServers) -> None:
    """The refusal names the fingerprint and the way to accept; the accepted key is in the home and can be exported."""
    known = ssh_server.known_hosts.read_text()
    ssh_server.known_hosts.write_text("")
    add = ["server", "add", "a", ssh_server.url(0), "--option", f"ssh-config={ssh_server.config}"]
    done = lafs(*add, code=8)
    said = done.stderr.decode().splitlines()
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", f"{ssh_server.folder}/host_key0.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert fingerprint in said[0]
    assert said[1].startswith("hint: ")
    assert "--accept-new" in said[1]
    assert json.loads(lafs(*add, "--json", code=8).stdout)["error"]["kind"] == "Unreachable"
    assert lafs.json("server", "list")["servers"] == []
    lafs(*add, "--accept-new", code=0)
    assert known.split()[2] in (lafs.home / "known_hosts").read_text()
    assert stat.S_IMODE((lafs.home / "known_hosts").stat().st_mode) == 0o600
    assert lafs.json("server", "status")["servers"][0]["reachable"]
    lafs("grid", "export", "file", code=0)
    assert tomllib.loads((lafs.folder / "file").read_text())["servers"]["a"]["host-keys"] == [known.strip()]


def test_grid_file_takes_a_cap_to_another_home(
    lafs: Lafs, short_tmp: Path, start_servers: Callable[..., SshServers]
) -> None:
    """Another person, with a login of their own, needs the grid file and the cap, and nothing else."""
    servers = start_servers(2)
    _add(lafs, servers, "--site", "cellar", "--option", "ssh-option=Compression=no", "--option", "timeout=50s")
    (short_tmp / "x").write_bytes(os.urandom(3000))
    cap = lafs("put", "x", code=0).stdout.decode().strip()
    answer = lafs.json("grid", "export", "grid")
    assert (answer["servers"], answer["host_keys"]) == (["s0", "s1"], 2)
    text = (short_tmp / "grid").read_text()
    assert lafs("grid", "export", "-", code=0).stdout.decode() == text
    table = tomllib.loads(text)
    assert table["encoding"] == {"k": 1, "happy": 2, "n": 2, "segment-size": 1048576}
    for i, server in enumerate(table["servers"].values()):
        assert server["url"] == f"sftp://127.0.0.1:{servers.port(i)}{servers.root(i)}"
        assert server["options"] == {"timeout": "50s"}
        assert server["site"] == "cellar"
    for secret in ("convergence", "secret"):
        assert (lafs.home / secret).read_text().strip() not in text

    other = Lafs(short_tmp / "o", {"LAFS_SSH": str(short_tmp / "ssh")})
    (short_tmp / "ssh").write_text(
        "#!/bin/sh\n"
        f'exec ssh -F none -o IdentityAgent=none -o UserKnownHostsFile=/dev/null -i {servers.identity} "$@"\n'
    )
    (short_tmp / "ssh").chmod(0o700)
    other("init", code=0)
    answer = other.json("grid", "import", short_tmp / "grid")
    assert (answer["added"], answer["known"], answer["host_keys"]) == (["s0", "s1"], [], 2)
    assert other.json("encoding")["n"] == 2
    assert other("cat", cap, code=0).stdout == (short_tmp / "x").read_bytes()
    before = (other.home / "config.toml").read_bytes()
    assert other.json("grid", "import", short_tmp / "grid")["known"] == ["s0", "s1"]
    assert (other.home / "config.toml").read_bytes() == before


HOSTILE = """
lafs-grid = 1
[encoding]
k = 1
happy = 1
n = 1
[servers.a]
url = "sftp://host/x"
node-id = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
permutation-seed = "aaaa"
[servers.a.options]
ssh-command = "/bin/evil"
ssh-config = "/evil"
ssh-option = ["ProxyCommand=evil"]
identity = "/k"
timeout = "9s"
"""


def test_imported_file_may_not_run_programs(lafs: Lafs) -> None:
    (lafs.folder / "grid").write_text(HOSTILE)
    done = lafs("grid", "import", "grid", code=0)
    for option in ("ssh-command", "ssh-config", "ssh-option", "identity"):
        assert f"server a: the option {option} was dropped".encode() in done.stderr
    table = tomllib.loads((lafs.home / "config.toml").read_text())
    assert table["servers"]["a"]["options"] == {"timeout": "9s"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lafs-grid = 1", "lafs-grid = 2"),
        ("sftp://host/x", "sftp://-oProxyCommand=x/x"),
        ("[servers.a]", "[servers.'../a']"),
        ("[servers.a]", '[servers.a]\nhost-keys = ["* ssh-ed25519 AAAA"]'),
        ("[servers.a]", '[servers.a]\nhost-keys = ["@cert-authority h ssh-ed25519 AAAA"]'),
        ("[servers.a]", '[servers.a]\nhost-keys = ["h ssh-ed25519 AAAA\\n* ssh-ed25519 AAAA"]'),
        ("n = 1", "n = 0"),
        ("lafs-grid = 1", "\x00"),
    ],
)
def test_bad_grid_file_changes_nothing(lafs: Lafs, old: str, new: str) -> None:
    (lafs.folder / "grid").write_text(HOSTILE.replace(old, new))
    before = (lafs.home / "config.toml").read_bytes()
    lafs("grid", "import", "grid", code=2)
    assert (lafs.home / "config.toml").read_bytes() == before
    assert not (lafs.home / "known_hosts").exists()


def test_server_toml_of_another_server_is_refused(lafs: Lafs, ssh_server: SshServers) -> None:
    _add(lafs, ssh_server)
    (ssh_server.root(0) / "server.toml").write_text(
        'version = 1\nnode-id = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"\npermutation-seed = "aaaa"\n'
    )
    [answer] = lafs.json("server", "status", code=8)["servers"]
    assert not answer["reachable"]
    assert "another" in answer["reason"]


def test_signal_while_a_server_hangs(lafs: Lafs, start_servers: Callable[..., SshServers]) -> None:
    """A frozen server holds up neither the end nor its exit code."""
    servers = start_servers(2)
    _add(lafs, servers, "--option", "persist=off")
    (lafs.folder / "x").write_bytes(os.urandom(2000))
    cap = lafs("put", "x", code=0).stdout.decode().strip()
    for i in range(2):
        servers.pause(i)
    running = lafs.start("get", cap, "out", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stderr is not None
    while True:  # until the transfer is under way, as its progress line says
        time.sleep(0.05)
        with open(f"/proc/{running.pid}/status") as status:
            caught = next(line.split()[1] for line in status if line.startswith("SigCgt"))
        if int(caught, 16) & (1 << (signal.SIGUSR1 - 1)):
            running.send_signal(signal.SIGUSR1)
            if b"get out" in running.stderr.readline():
                break
    began = time.monotonic()
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 143
    assert time.monotonic() - began < 2
    assert not (lafs.folder / "out").exists()
    assert [each.name for each in lafs.folder.iterdir() if each.name.startswith(".lafs-")] == []
    for i in range(2):
        servers.resume(i)


def test_silent_server_is_given_up_after_the_timeout(lafs: Lafs, ssh_server: SshServers) -> None:
    _add(lafs, ssh_server, "--option", "persist=off")
    ssh_server.pause(0)
    began = time.monotonic()
    [answer] = lafs.json("server", "status", "--timeout", "1s", code=8)["servers"]
    assert time.monotonic() - began < 10
    assert not answer["reachable"]
    ssh_server.resume(0)


def test_rate_is_limited_over_all_servers(lafs: Lafs, start_servers: Callable[..., SshServers]) -> None:
    servers = start_servers(2)
    _add(lafs, servers)
    (lafs.folder / "x").write_bytes(os.urandom(400_000))
    began = time.monotonic()
    lafs("put", "x", "--limit-rate", "400K", code=0)  # 800 kB of shares
    assert time.monotonic() - began > 1.2
