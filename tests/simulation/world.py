"""Time, chance and order: everything that runs is an actor, and `World.run` lets one of them make one step at a time.

A client's own code runs in greenlets, which give control back only where they wait: for an answer, or for time to
pass. Nothing here knows a thread or a real clock, so one seed is one history.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from greenlet import GreenletExit, getcurrent, greenlet

START = 1_800_000_000.0
STEP = 0.01
"""Seconds that a step takes, at most."""
_MIDDLE = 5


class Stuck(AssertionError):
    """Somebody waits for what will never come, or they go round and round."""


class Crashed(BaseException):
    """Raised in the code of a client that is no more, so that its clean-up does nothing."""


class Actor(Protocol):
    """What can be asked to make one step, by whoever holds it ready."""

    not_before: float
    owner: Process | None

    def step(self) -> None: ...


class Event:
    """Something that tasks wait for; it happens once."""

    __slots__ = ("_waiting", "happened", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self.happened = False
        self._waiting: list[tuple[Task, int]] = []

    def set(self) -> None:
        self.happened = True
        waiting, self._waiting = self._waiting, []
        for task, stamp in waiting:
            task.wake(stamp)

    def wait(self, timeout: float | None = None) -> bool:
        """Let others run until it has happened, or so many seconds have passed."""
        if not self.happened:
            task = self.world.task()
            self._waiting.append((task, task.stamp))
            task.park(timeout)
        return self.happened


class Process:
    """A client: it lives until it ends or is killed, and all that is its own with it."""

    def __init__(self, world: World, name: str, pid: int) -> None:
        self.world = world
        self.name = name
        self.pid = pid
        self.dead = False
        self.paused_until = 0.0
        self.tasks: list[Task] = []
        self.at_end: list[Callable[[], None]] = []

    def start(self, name: str, work: Callable[[], None]) -> Task:
        task = Task(self, name, work)
        self.tasks.append(task)
        self.world.ready(task)
        return task

    def end(self) -> None:
        """It is gone from one moment to the next; what was sent stays on its way."""
        if self.dead:
            return
        self.dead = True
        for task in self.tasks:
            task.kill()
        for ending in self.at_end:
            ending()


class Task:
    """A greenlet of a client."""

    def __init__(self, owner: Process, name: str, work: Callable[[], None]) -> None:
        self.owner: Process | None = owner
        self.process = owner
        self.name = name
        self.not_before = 0.0
        self.stamp = 0
        self._world = owner.world
        self._greenlet = greenlet(work, owner.world.hub)
        self._greenlet.task = self

    def __repr__(self) -> str:
        return f"{self.process.name}/{self.name}"

    def step(self) -> None:
        if not self.process.dead:
            self._greenlet.switch()

    def wake(self, stamp: int) -> None:
        if stamp == self.stamp and not self.process.dead:
            self.stamp += 1
            self._world.ready(self)

    def park(self, timeout: float | None = None) -> None:
        """Called by the task itself: give control back, until `wake` or for `timeout` seconds."""
        if self.process.dead:
            raise Crashed
        if timeout is not None:
            stamp = self.stamp
            self._world.later(timeout, lambda: self.wake(stamp))
        self._world.hub.switch()
        if self.process.dead:
            raise Crashed

    def kill(self) -> None:
        """It ends here and now; whoever calls goes on, be it the hub or another task of the same client."""
        current = getcurrent()
        if self._greenlet is not current and not self._greenlet.dead:
            self._greenlet.parent = current
            with suppress(Crashed):
                self._greenlet.throw(GreenletExit)


class World:
    """`chance` decides everything; `tick` is called before each step, `looked` after it."""

    def __init__(self, seed: int, *, limit: int = 60_000) -> None:
        self.chance = random.Random(seed)
        self.now = START
        self.steps = 0
        self.limit = limit
        self.hub = getcurrent()
        self.tick: Callable[[], None] = lambda: None
        self.looked: Callable[[], None] = lambda: None
        self.loyalty = 0.0
        """How likely it is that the one who made the last step makes the next."""
        self.trace: Callable[[str], None] | None = None
        self.digest = 0
        self._ready: list[Actor] = []
        self._pressed: list[tuple[int, Actor]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._last: Process | None = None

    # ---- for actors

    def task(self) -> Task:
        """The one that runs now."""
        found: Any = getcurrent()
        task: Task = found.task
        return task

    def ready(self, actor: Actor) -> None:
        self._ready.append(actor)

    def press(self, actor: Actor) -> None:
        """It is in the middle of something that takes microseconds: a few steps of others may come in between."""
        self._pressed.append((self.steps + self.chance.randrange(_MIDDLE), actor))

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._timers, (self.now + seconds, self._count, call))

    def sleep(self, seconds: float) -> None:
        """Of a client: let time pass."""
        self.task().park(max(0.0, seconds))

    def note(self, *words: object) -> None:
        """One line of the history."""
        if self.trace is not None:
            self.trace(f"{self.steps:6d} {self.now - START:9.3f} " + " ".join(map(str, words)))

    # ---- the loop

    def run(self, until: Callable[[], bool]) -> None:
        while not until():
            self._fire()
            if not self._ready and not self._pressed:
                if not self._timers:
                    raise Stuck("everybody waits")
                self.now = max(self.now, self._timers[0][0])
                continue
            self.steps += 1
            if self.steps > self.limit:
                raise Stuck(f"no end after {self.limit} steps")
            self.tick()
            actor = self._pick()
            if actor is None:
                continue
            self.now += self.chance.random() * STEP
            actor.step()
            self.looked()

    def _fire(self) -> None:
        while self._timers and self._timers[0][0] <= self.now:
            heapq.heappop(self._timers)[2]()

    def _pick(self) -> Actor | None:
        ready = self._ready
        if self._pressed and (self._pressed[0][0] <= self.steps or not ready):
            return self._pressed.pop(0)[1]
        if not ready:
            return None
        index = int(self.chance.random() * len(ready))
        if self._last is not None and self.chance.random() < self.loyalty:
            for at, actor in enumerate(ready):
                if actor.owner is self._last:
                    index = at
                    break
        actor = ready[index]
        ready[index] = ready[-1]
        ready.pop()
        owner = actor.owner
        if owner is not None and owner.dead:
            return None
        until = max(actor.not_before, owner.paused_until if owner is not None else 0.0)
        if until > self.now:
            self.later(until - self.now, lambda: self.ready(actor))
            return None
        self._last = owner
        self.digest = hash((self.digest, index, len(ready)))
        return actor
