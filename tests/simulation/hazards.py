"""What goes wrong, and when: drawn from the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.wire import Connection, Host
from tests.simulation.world import Process, World

KINDS = ("pause", "crash", "cut", "stall", "down", "full", "misjudge", "shift")
_RATES = (0.0, 0.002, 0.005, 0.01, 0.03)


class Hazards:
    """Something happens at some of the steps, `left` times at most; of which kinds and how often, the seed says.

    With `outages` it is servers that are away and clients that die while they commit.
    `clients` gives those that live now; `crashed` is called with one that has died.
    """

    def __init__(
        self,
        world: World,
        hosts: Sequence[Host],
        clients: Callable[[], list[Process]],
        crashed: Callable[[Process], None],
        *,
        outages: bool = False,
    ) -> None:
        self._world = world
        self._hosts = hosts
        self._clients = clients
        self._crashed = crashed
        chance = world.chance
        self._rate = chance.choice(_RATES)
        self.left = chance.choice((1, 3, 8, 20))
        self._kinds = chance.sample(KINDS, chance.randrange(1, len(KINDS) + 1))
        self._aim = chance.choice((0.0, 0.0, 0.02, 0.1, 0.3))
        self._more = chance.choice((0.0, 0.2, 0.5))
        self._shifts = chance.choice((0.0, 0.0, 0.3, 0.8))
        if outages:
            self._kinds = ["crash", "cut", "down", "shift"]
            self._rate, self.left, self._more, self._shifts = 0.0, 40, 0.6, 0.8
            self._aim = chance.choice((0.0, 0.05, 0.15))
        self._outages = outages
        self._misjudging = False
        self._doomed: Process | None = None
        self.happened: list[str] = []
        for host in hosts:
            host.moving = self._moving

    def tick(self) -> None:
        """Before each step."""
        chance = self._world.chance
        if self._doomed is not None:
            doomed, self._doomed = self._doomed, None
            self._crash(doomed)
        if self.left and chance.random() < self._rate:
            self.left -= 1
            kind = chance.choice(self._kinds)
            self.happened.append(kind)
            getattr(self, f"_{kind}")()

    @property
    def mild(self) -> bool:
        """Whether nothing has happened yet but that clients were slow: every server answers in time."""
        return {kind.rstrip("!.") for kind in self.happened} <= {"pause", "misjudge"}

    def between(self) -> None:
        """After a change was acknowledged."""
        if self.left and self._world.chance.random() < self._shifts:
            self.left -= 1
            self.happened.append("shift.")
            self._shift()

    def _moving(self, connection: Connection) -> None:
        """Aimed at the moment that counts: shares are moved. One thing seldom goes wrong alone."""
        chance = self._world.chance
        likely = self._aim
        while self.left and chance.random() < likely:
            likely = self._more
            self.left -= 1
            kind = chance.choice(self._kinds)
            self.happened.append(f"{kind}!")
            match kind:
                case "pause":
                    self._pause(connection.client)
                case "cut":
                    self._cut(connection)
                case "stall":
                    self._stall(connection)
                case "down":
                    self._down(connection.host)
                case "full":
                    self._full(connection.host)
                case "misjudge":
                    self._misjudge()
                case "shift":
                    self._shift()
                case "crash":
                    # at the next step: it is this client's own code that sends
                    self._doomed = connection.client

    def misjudged(self) -> bool:
        """Asked by whoever looks at the guard of another one: whether to take that one for dead, whatever it is."""
        if not self._misjudging:
            return False
        self._misjudging = False
        self._world.note("taken for dead")
        return True

    def heal(self) -> None:
        """Nothing goes wrong from now on, and what was down is up. What is under way stays so."""
        self.left = 0
        self._misjudging = False
        for host in self._hosts:
            host.up = True
            host.disk.full = False
            for connection in host.connections:
                connection.not_before = 0.0
        for client in self._clients():
            client.paused_until = 0.0

    # ---- the kinds

    def _pause(self, client: Process | None = None) -> None:
        if client := client or self._anyone():
            seconds = self._world.chance.choice((1.0, 8.0, 23.0, 45.0, 130.0))
            client.paused_until = max(client.paused_until, self._world.now + seconds)
            self._world.note(client.name, f"paused for {seconds:.0f} s")

    def _crash(self, client: Process | None = None) -> None:
        client = client or self._anyone()
        if client is not None and client in self._clients():
            self._world.note(client.name, "crashes")
            client.end()
            self._crashed(client)

    def _cut(self, connection: Connection | None = None) -> None:
        if connection := connection or self._busy():
            chance = self._world.chance
            keep = None if chance.random() < 0.6 else chance.randrange(connection.pending + 1)
            connection.cut(keep, chance.choice((0.0, 0.0, 0.3, 5.0, 30.0, 100.0)))

    def _stall(self, connection: Connection | None = None) -> None:
        connection = connection or self._busy()
        if connection is not None and connection.midway is None:
            connection.not_before = self._world.now + self._world.chance.choice((0.5, 5.0, 25.0, 50.0))
            self._world.note(repr(connection), f"stalls for {connection.not_before - self._world.now:.0f} s")

    def _shift(self) -> None:
        """Other servers than before are down: less than half of them, mostly."""
        chance, hosts = self._world.chance, self._hosts
        count = chance.randrange((len(hosts) + 1) // 2 + (chance.random() < 0.2))
        if self._outages and chance.random() < 0.7:
            count = (len(hosts) - 1) // 2
        away = chance.sample(hosts, count)
        seconds = chance.choice((20.0, 100.0, 400.0))
        self._world.note("away:", *(host.name for host in away))
        for host in hosts:
            if host in away:
                self._down(host, seconds)
            else:
                host.up = True

    def _down(self, host: Host | None = None, seconds: float | None = None) -> None:
        chance, world = self._world.chance, self._world
        host = host or chance.choice(self._hosts)
        if not host.up:
            return
        seconds = seconds or chance.choice((1.0, 10.0, 40.0, 200.0))
        world.note(host.name, f"down for {seconds:.0f} s")
        host.up = False
        crash = chance.random() < 0.5
        for connection in host.connections:
            if not connection.lost:
                keep = chance.randrange(connection.pending + 1) if crash else None
                connection.cut(keep, 0.0 if crash else chance.choice((0.0, 5.0, seconds, seconds + 30)))

        def up() -> None:
            if not host.up:
                host.up = True
                world.note(host.name, "up")

        world.later(seconds, up)

    def _full(self, host: Host | None = None) -> None:
        chance, world = self._world.chance, self._world
        host = host or chance.choice(self._hosts)
        host.disk.full = True
        world.note(host.name, "full")

        def room() -> None:
            host.disk.full = False
            world.note(host.name, "has room")

        world.later(chance.choice((1.0, 10.0, 100.0)), room)

    def _misjudge(self) -> None:
        self._misjudging = True

    def _anyone(self) -> Process | None:
        clients = self._clients()
        return self._world.chance.choice(clients) if clients else None

    def _busy(self) -> Connection | None:
        """A connection, if possible one on which something is under way."""
        living = [one for host in self._hosts for one in host.connections if not one.lost]
        busy = [one for one in living if one.pending]
        return self._world.chance.choice(busy or living) if living else None
