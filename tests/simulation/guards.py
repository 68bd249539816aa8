"""The guard alone: clients that count on one server, whatever goes wrong."""

from __future__ import annotations

from lafscli.errors import LafsError
from lafscli.formats.container import share_path
from lafscli.storage.folder import FolderStore
from tests.guard_process import MAGIC, SHNUM, counter, increment
from tests.simulation.cast import KINDS, Client, HastyLocks, Servers
from tests.simulation.hazards import Hazards
from tests.simulation.oracle import Lost
from tests.simulation.world import Process, World

SI = bytes(16)


def play(seed: int, trace: object = None, locks: type = HastyLocks) -> World:
    """Two or three clients add one to a counter, several times; what was acknowledged is in it at the end."""
    world = World(seed)
    world.trace = trace  # type: ignore[assignment]
    chance = world.chance
    world.loyalty = chance.choice((0.0, 0.5, 0.9, 0.98))
    servers = Servers(world, [chance.choice(list(KINDS))])
    disk = servers.hosts[0].disk
    path = share_path(SI, SHNUM)
    folders = path.split("/")[:-1]
    for depth in range(2, len(folders) + 1):
        disk.mkdir("/".join(folders[:depth]))
    disk.write(disk.create(path), 0, counter(5), path)
    clients: list[Client] = []
    acknowledged = 0
    tried = 0

    def work(client: Client, rounds: int) -> None:
        nonlocal acknowledged, tried
        store = client.grid.stores[0]
        assert isinstance(store, FolderStore)
        for _ in range(rounds):
            tried += 1
            try:
                store.connect()
                acknowledged += increment(store.files, store.locks, SI, "")
            except LafsError as error:
                world.note(client.process.name, repr(error))

    def living() -> list[Process]:
        return [client.process for client in clients if not client.process.dead]

    hazards = Hazards(world, servers.hosts, living, lambda process: None)

    def add(name: str, rounds: int) -> None:
        machine = chance.choice(("a", "b"))
        client = Client(world, servers, hazards, name, 100 + len(clients), machine, locks)
        client.living = lambda pid: not clients[pid - 100].process.dead
        clients.append(client)

        def run() -> None:
            work(client, rounds)
            client.process.end()

        client.process.start("main", run)

    world.tick = hazards.tick
    for number in range(chance.choice((2, 2, 3))):
        add(f"c{number}", chance.randrange(1, 4))
    world.run(lambda: not living())
    hazards.heal()
    before = acknowledged
    add("last", 1)
    world.run(lambda: not living())
    if acknowledged != before + 1:
        raise Lost("the last one could not count")
    world.run(lambda: not any(connection.pending for connection in servers.hosts[0].connections))
    value = int(disk.opened(path).data.removeprefix(MAGIC))
    if not 5 + acknowledged <= value <= 5 + tried:
        raise Lost(f"{acknowledged} of {tried} were acknowledged, and {value - 5} are counted")
    return world
