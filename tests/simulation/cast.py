"""Who takes part: servers with simulated disks, and clients with the real stores on top."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from copy import copy

from lafscli.primitives.encoding import b32encode
from lafscli.storage.folder import FolderStore
from lafscli.storage.locks import Locks
from lafscli.storage.owner import Owner
from lafscli.storage.store import Server, StorageIndex
from tests.simulation.disk import Folder, copied
from tests.simulation.files import SimulatedFiles
from tests.simulation.grid import SimulatedGrid
from tests.simulation.hazards import Hazards
from tests.simulation.wire import Host
from tests.simulation.world import Process, World

FEATURES = frozenset({"rename-keeps", "folder-rename-keeps", "posix-rename", "hardlink", "fsync", "ordered"})
KINDS: dict[str, tuple[str, ...]] = {
    "all": (),
    "no-posix-rename": ("posix-rename",),
    "no-fsync": ("fsync",),
    "slow": ("ordered",),
    "v3": ("posix-rename", "hardlink", "fsync"),
}
FOLDERS = ("shares", "staging", "locks", "trash", "quarantine")


class Servers:
    """So many servers, s0 …, each of a kind; `disks` are what they have at first."""

    def __init__(
        self,
        world: World,
        kinds: Sequence[str],
        disks: Sequence[Folder] | None = None,
    ) -> None:
        self.hosts: list[Host] = []
        self.servers: list[Server] = []
        for index, kind in enumerate(kinds):
            lacks = KINDS[kind]
            host = Host(world, f"s{index}", lacks, world.chance.uniform(-1000.0, 1000.0))
            host.disk.frank = world.chance.random() < 0.5
            node_id = hashlib.sha256(b"node %d" % index).digest()[:20]
            seed = hashlib.sha256(b"seed %d" % index).digest()[:20]
            if disks is not None:
                host.disk.root = copied(disks[index])
            else:
                for folder in FOLDERS:
                    host.disk.mkdir(folder)
                text = f'version = 1\nnode-id = "{b32encode(node_id)}"\npermutation-seed = "{b32encode(seed)}"\n'
                host.disk.write(host.disk.create("server.toml"), 0, text.encode(), "server.toml")
            self.hosts.append(host)
            self.servers.append(Server(host.name, node_id, seed, None, True, FEATURES - set(lacks)))

    def first(self, count: int) -> Servers:
        """The same without those that come later."""
        some = copy(self)
        some.hosts, some.servers = self.hosts[:count], self.servers[:count]
        return some


class HastyLocks(Locks):
    """Locks that now and then take a living holder for dead: that may cost it a retry, never data (spec 10 §1.4)."""

    misjudged: Callable[[], bool] = staticmethod(lambda: False)

    def _stale(self, si: StorageIndex, sight: object, clock: int | None, asked: float) -> bool:
        return self.misjudged() or super()._stale(si, sight, clock, asked)  # type: ignore[arg-type]


class Client:
    """A process of some machine, with its own connections to all servers."""

    def __init__(
        self, world: World, servers: Servers, hazards: Hazards | None, name: str, pid: int, machine: str, locks: type
    ) -> None:
        self.process = Process(world, name, pid)
        self.world = world
        self.randomness = random.Random(world.chance.getrandbits(64))
        self.owner = Owner(machine, f"boot of {machine}", pid, 20.0)
        self.living: Callable[[int], bool] = lambda pid: True
        stores = []
        for host, server in zip(servers.hosts, servers.servers, strict=True):
            files = SimulatedFiles(self.process, host)
            store = FolderStore(server, files, random_bytes=self.random_bytes)
            store.locks = locks(
                server,
                files,
                random_bytes=self.random_bytes,
                lock_seconds=20.0,
                me=self.owner,
                alive=lambda pid: self.living(pid),
                monotonic=self.monotonic,
                sleep=world.sleep,
            )
            if hazards is not None and isinstance(store.locks, HastyLocks):
                store.locks.misjudged = hazards.misjudged
            stores.append(store)
        self.grid = SimulatedGrid(self.process, stores)

    def random_bytes(self, count: int) -> bytes:
        return self.randomness.randbytes(count)

    def monotonic(self) -> float:
        return self.world.now
