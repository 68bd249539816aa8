"""Which server gets which share (spec 05 §2-4), and what may be lost afterwards.

Pure: servers are any hashable values, shares are numbers. Everything is reproducible: servers are taken in the order
given, shares in ascending number. Sets of shares or of servers are bits of an int, which makes matchings fast.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from heapq import nlargest
from typing import Self, TypeVar

from lafscli.errors import UsageError

T = TypeVar("T")
S = TypeVar("S", bound=Hashable)

_EXAMPLE = "for example 3/7/10: any 3 of 10 shares rebuild a file, which must reach 7 servers"
_SPARE_WORK = 2_000_000  # steps of `spare`: about half a second


LARGEST_SEGMENT = 1 << 30
"""Bytes: a segment is held in memory, several at a time."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file is cut: any `k` of `n` shares rebuild it, an upload must reach `happy` servers (spec 05 §3).

    `segment_size` is the maximum, in bytes. An encoding that can't be is a UsageError.
    """

    k: int = 3
    happy: int = 7
    n: int = 10
    segment_size: int = 1048576

    def __post_init__(self) -> None:
        if min(self.k, self.happy, self.n) < 1:
            raise UsageError(f"encoding {self} can't be: all numbers must be at least 1", hint=_EXAMPLE)
        if self.k > self.n or self.n > 256:
            raise UsageError(f"encoding {self} can't be: k <= n <= 256 must hold", hint=_EXAMPLE)
        if self.happy > self.n:
            raise UsageError(f"encoding {self} can't be: happy <= n must hold", hint=_EXAMPLE)
        if not 1 <= self.segment_size <= LARGEST_SEGMENT:
            raise UsageError(f"the segment size must be at least 1 and at most {LARGEST_SEGMENT} bytes")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `K/H/N`; the segment size is the default one."""
        found = re.fullmatch(r"([0-9]{1,3})/([0-9]{1,3})/([0-9]{1,3})", text)
        if found is None:
            raise UsageError("an encoding is three numbers, K/H/N", hint=_EXAMPLE)
        return cls(*map(int, found.groups()))

    def __str__(self) -> str:
        return f"{self.k}/{self.happy}/{self.n}"

    @property
    def expansion(self) -> float:
        """Bytes stored for a byte."""
        return self.n / self.k

    @property
    def guaranteed(self) -> int:
        """How many servers may be lost after any upload that was accepted, wherever its shares went."""
        return max(self.happy - self.k, 0)

    def fitting(self, servers: int) -> Encoding:
        """The encoding to suggest for so many servers: this one if they reach `happy`, else a share a server, with
        k and happy in the same proportion, rounded up (3/7/10 on 4 servers: 2/3/4; on one: 1/1/1)."""
        if servers >= self.happy:
            return self
        n = max(servers, 1)
        return Encoding(-(-self.k * n // self.n), -(-self.happy * n // self.n), n, self.segment_size)


def may_lose(k: int, n: int, servers: int) -> int:
    """How many of so many servers, whichever they are, may be lost when n shares are spread evenly over them."""
    if servers < 1:
        return 0
    each, more = divmod(n, servers)
    lost, left = 0, n
    while True:  # the fullest servers go first
        left -= each + (lost < more)
        if left < k or lost == servers:
            return lost
        lost += 1


def permuted(si: bytes, servers: Iterable[T], seed: Callable[[T], bytes]) -> list[T]:
    """The servers in the order of this storage index (spec 05 §2)."""
    return sorted(servers, key=lambda server: sha1(si + seed(server), usedforsecurity=False).digest())


def happiness(holders: Mapping[S, Iterable[Hashable]]) -> int:
    """Size of a maximum matching between servers and the shares they hold (spec 05 §3)."""
    bits: dict[Hashable, int] = {}
    numbered = [[bits.setdefault(share, len(bits)) for share in shares] for shares in holders.values()]
    edges = [_mask(shares, len(bits)) for shares in numbered]
    matching = _Matching(edges)
    return sum(matching.add(server) for server in range(len(edges)))


# ---- the plan of an upload -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that may get shares. `held`: the good shares of this object that it has.

    `site`: a label shared by servers that may fail together; a server without one stands alone.
    `blocked`: numbers that can't be stored there, because something that is no good share lies under that name.
    """

    server: Hashable
    writable: bool
    held: frozenset[int]
    site: str | None = None
    blocked: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """Where each share goes: `keep` lies there already, `send` is to be stored; both ascending by share number.

    `happiness` counts everything: what was found and what will be sent. A share that no server can take is in neither.
    """

    keep: Mapping[int, Hashable]
    send: Mapping[int, Hashable]
    happiness: int


def plan(n: int, candidates: Sequence[Candidate], shares: Collection[int] | None = None) -> Plan:
    """Give each share number below n one server (spec 05 §4.4), with the greatest happiness that can be.

    Candidates come in permuted order. A new share goes to a writable server without any share while there is one,
    and among servers that are equally good, to the site with the fewest shares. With `shares`, only these numbers are
    planned; the others count where they lie.
    """
    wanted = _mask(range(n) if shares is None else shares, n)
    held = [_mask(candidate.held, n) for candidate in candidates]
    writable = [i for i, candidate in enumerate(candidates) if candidate.writable]

    # (a), (b): what lies on read-only servers, then on writable ones; a server matched once stays matched
    matching = _Matching(held)
    for i, candidate in enumerate(candidates):
        if not candidate.writable:
            matching.add(i)
    for i in writable:
        matching.add(i)

    # (c): any wanted share on any writable server. Which servers matters for the sites, which share on which does not
    edges = list(held)
    for i in writable:
        edges[i] |= wanted & ~_mask(candidates[i].blocked, n)
    load = _Load(candidates, held)
    for i in _choose(matching.widened(edges), writable, held, load):
        load.add(i)
    matching = matching.widened(edges)
    for i in writable:
        if i in load.chosen:
            matching.add(i)

    keep: dict[int, Hashable] = {}
    send: dict[int, Hashable] = {}
    for share in _bits(wanted):
        bit = 1 << share
        owner = matching.server_of.get(share)
        if owner is None:  # (d)
            owner = next((i for i in writable if held[i] & bit), None)
        if owner is None:  # (e)
            able = [i for i in writable if edges[i] & bit]
            if not able:
                continue
            owner = min(able, key=load.rank)
            load.add(owner)
        (keep if held[owner] & bit else send)[share] = candidates[owner].server
    return Plan(keep, send, len(matching.share_of))


def _choose(matching: _Matching, writable: Sequence[int], held: Sequence[int], load: _Load) -> Iterator[int]:
    """The servers that get a share in (c), best first: empty ones, then by site, then in order."""
    rest = [i for i in writable if i not in matching.share_of]
    while rest and matching.growing:
        best = min(rest, key=lambda i: (held[i] != 0, load.of_site(i), i))
        rest.remove(best)
        if matching.add(best):
            yield best


class _Load:
    """How many shares each server and each site has, found and planned."""

    def __init__(self, candidates: Sequence[Candidate], held: Sequence[int]) -> None:
        sites: dict[object, int] = {}
        self.chosen: set[int] = set()
        self._site = [
            sites.setdefault(i if candidate.site is None else candidate.site, len(sites))
            for i, candidate in enumerate(candidates)
        ]
        self._servers = [mask.bit_count() for mask in held]
        self._sites = [0] * len(sites)
        for i, count in enumerate(self._servers):
            self._sites[self._site[i]] += count

    def add(self, i: int) -> None:
        self.chosen.add(i)
        self._servers[i] += 1
        self._sites[self._site[i]] += 1

    def of_site(self, i: int) -> int:
        return self._sites[self._site[i]]

    def rank(self, i: int) -> tuple[int, int, int]:
        """Fewest shares first, then the site with the fewest, then in order."""
        return self._servers[i], self._sites[self._site[i]], i


class _Matching:
    """A matching that grows by one server at a time, along shortest augmenting paths.

    A server that got a share never loses it, it may only get another. `edges`: for each server the shares it may have.
    """

    def __init__(self, edges: Sequence[int]) -> None:
        self.edges = edges
        self.share_of: dict[int, int] = {}
        self.server_of: dict[int, int] = {}
        self._taken = 0
        self._dead = 0  # shares from which no free one can be reached, now or later
        self._all = 0
        for mask in edges:
            self._all |= mask

    @property
    def growing(self) -> bool:
        """Whether some share is free that some server may have."""
        return self._taken != self._all

    def widened(self, edges: Sequence[int]) -> _Matching:
        """A copy that goes on with more edges."""
        copy = _Matching(edges)
        copy.share_of, copy.server_of, copy._taken = dict(self.share_of), dict(self.server_of), self._taken
        return copy

    def add(self, server: int) -> bool:
        """Give this server a share, the lowest free one where that needs no exchange; False if it can't have one."""
        reached: dict[int, int] = {}  # share -> the server that would take it over
        seen = self._dead
        queue = [server]
        for current in queue:
            free = self.edges[current] & ~self._taken
            if free:
                share = _lowest(free)
                self._taken |= 1 << share
                while True:
                    former = self.share_of.get(current)
                    self.share_of[current] = share
                    self.server_of[share] = current
                    if former is None:
                        return True
                    share, current = former, reached[former]
            fresh = self.edges[current] & ~seen
            seen |= fresh
            for share in _bits(fresh):
                reached[share] = current
                queue.append(self.server_of[share])
        self._dead = seen
        return False


# ---- what may be lost ------------------------------------------------------------------------------------------


def spare(holders: Mapping[S, Iterable[int]], k: int) -> int:
    """The greatest s such that after the loss of *any* s servers k distinct shares remain; -1 if not even now.

    Exact where each share lies on one server, and for every grid of 20 servers or shares that was tried (20 with 20 in
    30 ms). The problem is NP-hard: with many shares on many servers each, the search ends after a fixed amount of work
    (about a second) with what is proved by then. The answer is never too high.
    """
    where: dict[int, int] = {}
    for i, shares in enumerate(holders.values()):
        for share in shares:
            where[share] = where.get(share, 0) | 1 << i
    need = len(where) - max(k, 1) + 1
    if need <= 0:
        return -1
    groups = list(Counter(where.values()).items())
    search = _Loss(_SPARE_WORK)
    lost = 1
    while not search.possible(groups, need, lost):
        lost += 1
    return lost - 1


class _Loss:
    """Branch and bound: may the loss of so many servers destroy so many shares?

    Shares held by the same servers form a group (servers as a mask, number of shares): they are lost together.
    """

    def __init__(self, work: int) -> None:
        self._work = work

    def possible(self, groups: Sequence[tuple[int, int]], need: int, lost: int) -> bool:
        """True if it may, or if the work allowed is used up."""
        if need <= 0 or self._work <= 0:
            return True
        # a bound: each server destroys at most its part of each group it belongs to
        gain: dict[int, float] = {}
        for servers, weight in groups:
            part = weight / servers.bit_count()
            self._work -= servers.bit_count()
            for server in _bits(servers):
                gain[server] = gain.get(server, 0.0) + part
        if sum(nlargest(lost, gain.values())) < need - 1e-6:
            return False
        if len(groups) < len(gain):
            kill = max(groups, key=lambda group: group[1] / group[0].bit_count())[0]
            without = [group for group in groups if group[0] != kill]
        else:
            kill = 1 << max(gain, key=lambda server: (gain[server], -server))
            without = [group for group in groups if not group[0] & kill]
        if kill.bit_count() <= lost:
            left, destroyed = _after(groups, kill)
            if self.possible(left, need - destroyed, lost - kill.bit_count()):
                return True
        return self.possible(without, need, lost)


def _after(groups: Sequence[tuple[int, int]], kill: int) -> tuple[list[tuple[int, int]], int]:
    """The groups left when these servers are lost, merged where they became equal, and how many shares went."""
    left: dict[int, int] = {}
    for servers, weight in groups:
        left[servers & ~kill] = left.get(servers & ~kill, 0) + weight
    destroyed = left.pop(0, 0)
    return list(left.items()), destroyed


# ---- bits ------------------------------------------------------------------------------------------------------


def _mask(numbers: Iterable[int], end: int) -> int:
    """The numbers from 0 up to `end` as bits; others are left out, they are names of files that mean nothing here."""
    mask = 0
    for number in numbers:
        if 0 <= number < end:
            mask |= 1 << number
    return mask


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield _lowest(mask)
        mask &= mask - 1
