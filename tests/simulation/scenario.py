"""Clients that add their words to one mutable file, whatever goes wrong; in the end no acknowledged word is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lafscli.errors import LafsError, NotRecoverable
from lafscli.mutable.publish import Publishing, create, modify
from lafscli.mutable.retrieve import Reading, contents
from lafscli.placement import Encoding
from lafscli.primitives.ciphers import load_private_key
from lafscli.primitives.encoding import b32encode
from lafscli.proof.slotkeys import write_cap
from lafscli.storage.memory import Seen
from tests.simulation.cast import KINDS, Client, HastyLocks, Servers
from tests.simulation.disk import Folder
from tests.simulation.hazards import Hazards
from tests.simulation.oracle import Lost, Oracle
from tests.simulation.world import START, Process, World

ENCODINGS = [
    # k, n, servers
    *((1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 3, 3), (2, 2, 2), (2, 2, 3), (2, 3, 3), (2, 3, 4), (3, 4, 4), (3, 4, 3)),
    *((5, 6, 6), (3, 10, 5), (3, 10, 10), (1, 3, 3), (2, 3, 3), (3, 4, 4), (2, 2, 2), (1, 1, 3)),
]
FRAGILE = [(1, 3, 3), (2, 3, 3), (3, 10, 5), (3, 4, 4), (2, 5, 5)]
"""Those in which a majority of the servers has more shares than are needed: what one of them misses shows."""
PATIENCE = 3000.0
"""More than all pauses of a client together: to give up because it was stopped itself would be no fault."""
_FIRST_PID = 100
_EXAMPLE = json.loads((Path(__file__).parents[1] / "vectors" / "mutable_example.json").read_text())
KEY = load_private_key(bytes.fromhex(_EXAMPLE["priv_der"]), trusted=True)


@dataclass(frozen=True)
class Plan:
    """What does not depend on the order of things: servers, encoding, kind of file."""

    kinds: tuple[str, ...]
    encoding: Encoding
    mdmf: bool
    first: int
    """So many of the servers were there when the file was made."""

    @classmethod
    def draw(cls, world: World, outages: bool) -> Plan:
        chance = world.chance
        k, n, servers = chance.choice(FRAGILE if outages else ENCODINGS)
        happy = chance.choice((1, chance.randrange(1, min(n, servers) + 1)))
        alike = chance.choice(list(KINDS))
        kinds = tuple(alike if chance.random() < 0.8 else chance.choice(list(KINDS)) for _ in range(servers))
        first = servers if outages or chance.random() < 0.8 else chance.randrange(happy, servers + 1)
        return cls(kinds, Encoding(k, happy, n), chance.random() < 0.3, first)


@dataclass
class History:
    """What clients tried, and what they were told."""

    tried: set[bytes] = field(default_factory=set)
    acknowledged: set[bytes] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    reads: int = 0
    unread: int = 0


class Story:
    """One seed, played to its end."""

    def __init__(self, seed: int, trace: Callable[[str], None] | None = None, *, outages: bool = False) -> None:
        self.world = world = World(seed)
        world.trace = trace
        chance = world.chance
        self.plan = plan = Plan.draw(world, outages)
        world.loyalty = chance.choice((0.0, 0.5, 0.9, 0.98))
        self.cap = write_cap(KEY, mdmf=plan.mdmf)
        self.servers = Servers(world, plan.kinds, prepared(plan))
        self.history = History()
        self.clients: list[Client] = []
        self.oracle = Oracle(self.servers.hosts, self.cap)
        self.hazards = Hazards(world, self.servers.hosts, self.living, self.crashed, outages=outages)
        self._homes: dict[str, Seen] = {}
        self._words: dict[str, list[bytes]] = {}
        self._starting = 0
        self._loud = chance.random() < 0.5
        world.tick = self.hazards.tick
        world.looked = self.look

    def __str__(self) -> str:
        encoding, history, world = self.plan.encoding, self.history, self.world
        return ", ".join(
            [
                f"{encoding.k}/{encoding.happy}/{encoding.n}{' MDMF' if self.plan.mdmf else ''}",
                f"{len(self.plan.kinds)} servers ({' '.join(self.plan.kinds)})",
                f"{len(history.acknowledged)} of {len(history.tried)} acknowledged",
                f"refused: {' '.join(history.refused) or 'none'}",
                f"{history.reads} of {history.reads + history.unread} read",
                f"{world.steps} steps in {world.now - START:.0f} s",
                f"hazards: {' '.join(self.hazards.happened) or 'none'}",
                f"digest {self.digest:016x}",
            ]
        )

    @property
    def digest(self) -> int:
        """The same for the same history."""
        return self.world.digest & (2**64 - 1)

    def run(self) -> None:
        chance = self.world.chance
        for number in range(chance.choice((2, 2, 2, 3))):
            words = [b"%d.%d" % (number, count) for count in range(chance.choice((1, 1, 2, 3)))]
            self.client(f"c{number}", chance.choice(("a", "a", "b", "c")), words)
        for number in range(chance.choice((0, 0, 1, 2))):
            self.reader(f"r{number}")
        self.world.run(lambda: not (self.living() or self._starting))
        self.hazards.heal()
        if chance.random() < 0.5:
            self.deliver()
        self.insist(self.last("last"), "in what the last one read")
        self.deliver()
        self.judge(self.last("after"))

    # ---- who takes part

    def _new(self, name: str, machine: str, hazards: Hazards | None) -> Client:
        client = Client(self.world, self.servers, hazards, name, _FIRST_PID + len(self.clients), machine, HastyLocks)
        client.living = lambda pid: not self.clients[pid - _FIRST_PID].process.dead
        self.clients.append(client)
        return client

    def living(self) -> list[Process]:
        return [client.process for client in self.clients if not client.process.dead]

    def client(self, name: str, machine: str, words: list[bytes]) -> None:
        """A new process that adds these words, one after the other."""
        client = self._new(name, machine, self.hazards)
        memory = self._homes.setdefault(name, Seen(None))
        self._words[name] = words

        def run() -> None:
            while words:
                self.add(client, memory, words[0])
                words.pop(0)
            client.process.end()

        client.process.start("main", run)

    def reader(self, name: str) -> None:
        """A new process that reads a few times."""
        chance = self.world.chance
        client = self._new(name, "r", self.hazards)

        def run() -> None:
            for _ in range(chance.randrange(1, 5)):
                self.world.sleep(chance.choice((0.0, 0.5, 3.0, 10.0, 40.0)))
                self.read(client)
            client.process.end()

        client.process.start("main", run)

    def read(self, client: Client) -> None:
        """What is read without a warning has all that was acknowledged before."""
        before = frozenset(self.history.acknowledged)
        self.world.note(client.process.name, "reads")
        try:
            content, answer = contents(client.grid, self.cap, self.reading(client))
        except LafsError as error:
            self.world.note(client.process.name, f"can't read: {error!r}")
            self.history.unread += 1
            if isinstance(error, NotRecoverable) or self.hazards.mild:
                raise Lost(f"a reader is told for no good reason: {error!r}") from error
        else:
            self.world.note(client.process.name, f"has read {content!r}", *answer.warnings)
            self.history.reads += 1
            self.insist(content, "in what was read", frozenset() if answer.warnings else before)

    def crashed(self, process: Process) -> None:
        """Mostly it is started again. What it was at it then does once more, or it leaves it as it is."""
        chance, name, words = self.world.chance, process.name, self._words.get(process.name, [])
        if chance.random() < 0.5:
            words = words[1:]
        if words and chance.random() < 0.8:
            machine = next(client.owner.host for client in self.clients if client.process is process)
            self._starting += 1

            def start() -> None:
                self._starting -= 1
                self.client(name, machine, words)

            self.world.later(chance.choice((0.0, 2.0, 30.0)), start)

    def publishing(self, client: Client, memory: Seen) -> Publishing:
        return Publishing(
            encoding=self.plan.encoding,
            lease_secret=b"l" * 32,
            now=1_800_000_000,
            random_bytes=client.random_bytes,
            seen=memory,
            membership=None,
            patience=PATIENCE,
            monotonic=client.monotonic,
            sleep=self.world.sleep,
        )

    def reading(self, client: Client) -> Reading:
        world = self.world
        return Reading(seen=None, monotonic=client.monotonic, sleep=world.sleep, random_bytes=client.random_bytes)

    def add(self, client: Client, memory: Seen, word: bytes) -> None:
        world, history = self.world, self.history
        history.tried.add(word)
        world.note(client.process.name, f"adds {word.decode()}")
        try:
            with suppress(IsThere):
                modify(client.grid, self.cap, adding(word, loud=self._loud), self.publishing(client, memory))
        except LafsError as error:
            history.refused.append(type(error).__name__)
            world.note(client.process.name, f"did not add {word.decode()}: {error!r}")
            if isinstance(error, NotRecoverable) or self.hazards.mild:
                raise Lost(f"refused for no good reason: {error!r}") from error
        else:
            world.note(client.process.name, f"has added {word.decode()}")
            history.acknowledged.add(word)
            self.hazards.between()
            self.look(anyway=True)

    def last(self, name: str) -> bytes:
        """One more client, all alone: what it reads after it has added a word."""
        read: list[bytes] = []
        client = self._new(name, "z", None)

        def run() -> None:
            word = name.encode()
            self.add(client, Seen(None), word)
            if word not in self.history.acknowledged:
                raise Lost(f"with all servers up and nobody else there: {self.history.refused[-1]}")
            read.append(contents(client.grid, self.cap, self.reading(client))[0])
            client.process.end()

        client.process.start("main", run)
        self.world.run(lambda: not self.living())
        return read[0]

    # ---- what must hold

    def look(self, *, anyway: bool = False) -> None:
        """After every step: some version can be recovered, and it has all that was acknowledged."""
        if anyway or self.oracle.changed():
            header, content = self.oracle.best()
            self.insist(content, f"in version {header.prefix.seqnum}, the highest that can be recovered")

    def insist(self, content: bytes, where: str, needed: frozenset[bytes] | None = None) -> None:
        words = content.split()
        if missing := (self.history.acknowledged if needed is None else needed) - set(words):
            raise Lost(f"{b' '.join(sorted(missing)).decode()} acknowledged and not {where}")
        if len(words) != len(set(words)) or not set(words) <= self.history.tried:
            raise Lost(f"merged wrongly {where}: {words}")

    def judge(self, read: bytes) -> None:
        """In the end."""
        self.insist(read, "in what the last one read")
        _, content = self.oracle.best()
        if content != read:
            raise Lost("what was read is not the highest version")
        guard = b32encode(self.cap.storage_index)
        for host in self.servers.hosts:
            locks = host.disk.root.entries["locks"]
            assert isinstance(locks, Folder)
            if left := [name for name in locks.entries if guard in name]:
                raise Lost(f"left on {host.name} after a writer that had all servers: {' '.join(left)}")

    def deliver(self) -> None:
        """What is still under way on lost connections arrives."""
        for host in self.servers.hosts:
            for connection in host.connections:
                connection.not_before = 0.0
        self.world.run(lambda: not any(one.pending for host in self.servers.hosts for one in host.connections))


class IsThere(LafsError):
    """The word is there already; as good as added."""


def adding(word: bytes, *, loud: bool = False) -> Callable[[bytes], bytes | None]:
    """The change: it is applied again on conflict, and not twice. Where there is nothing to do, `loud` says so."""

    def change(old: bytes) -> bytes | None:
        if word not in old.split():
            return old + word + b"\n"
        if loud:
            raise IsThere(word.decode())
        return None

    return change


@cache
def prepared(plan: Plan) -> list[Folder]:
    """The disks of these servers with an empty file on them."""
    world = World(1)
    servers = Servers(world, plan.kinds)
    client = Client(world, servers.first(plan.first), None, "first", 1, "z", HastyLocks)

    def run() -> None:
        publishing = Publishing(
            encoding=plan.encoding,
            lease_secret=b"l" * 32,
            now=1_800_000_000,
            random_bytes=client.random_bytes,
            seen=None,
            membership=None,
            monotonic=client.monotonic,
            sleep=world.sleep,
        )
        create(client.grid, b"", publishing, mdmf=plan.mdmf, private=KEY)
        client.process.end()

    client.process.start("main", run)
    world.run(lambda: client.process.dead)
    return [host.disk.root for host in servers.hosts]


def play(seed: int, trace: Callable[[str], None] | None = None, *, outages: bool = False) -> Story:
    """One seed, to its end."""
    story = Story(seed, trace, outages=outages)
    try:
        story.run()
    except Exception as error:
        error.add_note(str(story))
        raise
    return story
