"""The SFTP gateway for tests: its backend alone, and as a process that logins by SSH reach.

with talking(shared, root) as talk:            # a RawClient, no SSH between
    talk.put("a", b"content")

with SftpGateway(lafs, f"alice {{key}} work") as gateway:
    gateway.sftp("put a", "ls -l")
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import paramiko

from lafscli.config import aliases
from lafscli.formats.caps import DirectoryCap
from lafscli.gateway.desk import Desk
from lafscli.gateway.gridfiles import GridFiles, Shared
from tests.lafs_process import Lafs
from tests.raw_sftp import RawClient, conversation
from tests.serving import wait_for
from tests.sshd import _make_key

NEW = 2 | 8 | 16
"""Flags of an upload: write, create, truncate."""


@contextmanager
def talking(
    shared: Shared, root: DirectoryCap, account: str = "alice", notes: list[str] | None = None
) -> Iterator[RawClient]:
    """One conversation with the backend of an account."""
    said = [] if notes is None else notes
    with conversation(lambda: GridFiles(shared, account, root, said.append)) as talk:
        yield talk.client


def home_of_folders(lafs: Lafs, count: int = 4, *more: str, encoding: str = "2/3/4") -> None:
    """A home whose servers are folders, and the alias `work` of a new directory."""
    lines = [f"init --encoding {encoding}"]
    for index in range(count):
        (lafs.folder / f"s{index}").mkdir()
        lines.append(f"server add s{index} file://{lafs.folder}/s{index}")
    lafs("batch", input="\n".join([*lines, "alias create work", *more]).encode(), code=0)


@contextmanager
def away(lafs: Lafs, numbers: Sequence[int]) -> Iterator[None]:
    """While it lasts these servers are not there."""
    for index in numbers:
        (lafs.folder / f"s{index}").rename(lafs.folder / f"away{index}")
    try:
        yield
    finally:
        for index in numbers:
            (lafs.folder / f"away{index}").rename(lafs.folder / f"s{index}")


def root_of_alias(desk: Desk, name: str = "work") -> DirectoryCap:
    cap = aliases.get(desk.home, name)
    assert isinstance(cap, DirectoryCap)
    return cap


class SftpGateway:
    """`lafs gateway sftp`; each account is a line in which `{key}` is the public key of `identity`."""

    def __init__(self, lafs: Lafs, *accounts: str, options: Sequence[str] = ()) -> None:
        self.lafs = lafs
        self.folder = lafs.folder / "gate"
        self.accounts = self.folder / "accounts"
        self.identity = self.folder / "client_key"
        self.config = self.folder / "ssh_config"
        self._lines = accounts
        self._options = options
        self._log = self.folder / "log"
        self.port = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(mode=0o700)
        _make_key(self.identity)
        self.authorize(*self._lines)
        command = ["gateway", "sftp", "--accounts", self.accounts, "--listen", "127.0.0.1:0", "--json", *self._options]
        with self._log.open("wb") as log:
            self.process = self.lafs.start(*command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, self.log()
        self.told = json.loads(said)
        self.port = int(self.told["listening"][0].rpartition(":")[2])
        self._write_client_files()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def authorize(self, *lines: str) -> None:
        """Write the file of accounts."""
        key = " ".join(Path(f"{self.identity}.pub").read_text().split()[:2])
        self.accounts.write_text("".join(f"{line.format(key=key)}\n" for line in lines))
        self.accounts.chmod(0o600)

    def reload(self) -> None:
        """Have it read the accounts again."""
        count = len(re.findall("accounts (?:read|stay)", self.log()))
        self.process.send_signal(signal.SIGHUP)
        wait_for(self.log, "accounts (read|stay)", count=count + 1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(20)

    def log(self) -> str:
        return self._log.read_text()

    def sftp(self, *commands: str, user: str = "alice", code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run OpenSSH's sftp with a batch, in the folder of the test."""
        done = subprocess.run(
            ["sftp", "-q", "-F", str(self.config), "-b", "-", f"{user}@gate"],
            input="\n".join(commands) + "\n",
            cwd=self.lafs.folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert code is None or done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def connect(self, user: str = "alice", **more: object) -> paramiko.SSHClient:
        """Log in with paramiko."""
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        given: dict[str, object] = {"key_filename": str(self.identity), "allow_agent": False, "look_for_keys": False}
        client.connect("127.0.0.1", self.port, user, timeout=20, **(given | more))  # type: ignore[arg-type]
        return client

    def raw(self, client: paramiko.SSHClient) -> RawClient:
        """A conversation in packets over one more channel of a connection."""
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session(timeout=20)
        channel.settimeout(30)
        channel.invoke_subsystem("sftp")
        return RawClient(channel)

    def _write_client_files(self) -> None:
        host_key = self.lafs.home / "gateway" / "host_key"
        if "--host-key" in self._options:
            host_key = Path(self._options[self._options.index("--host-key") + 1])
        public = subprocess.run(["ssh-keygen", "-y", "-f", host_key], capture_output=True, text=True, check=True)
        known = self.folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{self.port} {public.stdout.strip()}\n")
        lines = [
            "Host gate",
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"IdentityFile {self.identity}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {known}",
            "StrictHostKeyChecking yes",
        ]
        self.config.write_text("\n    ".join(lines) + "\n")
