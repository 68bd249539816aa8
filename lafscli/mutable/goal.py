"""Which server gets which shares of a new version (spec 03 §9.2, 10 §2.6). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def goal(
    n: int, deciding: Sequence[str], further: Sequence[str], held: Mapping[str, frozenset[int]]
) -> dict[str, list[int]]:
    """Share numbers by server, for those that get any.

    `deciding`: the servers of H that can be written; `further`: others that can; both in permuted order. `held`: what
    they hold now, good or bad: every share keeps its number. Each deciding server without a share gets a number that
    has no place, else a second copy of the rarest. Numbers left over go one each to further servers without a share,
    then to whoever has fewest.
    """
    order = [*deciding, *further]
    given = {name: sorted(shnum for shnum in held.get(name, ()) if shnum < n) for name in order}
    placed = {shnum for numbers in given.values() for shnum in numbers}
    homeless = [shnum for shnum in range(n) if shnum not in placed]
    for name in deciding:
        if not given[name]:
            given[name] = [homeless.pop(0) if homeless else _rarest(n, given)]
    for name in further:
        if not given[name] and homeless:
            given[name] = [homeless.pop(0)]
    for shnum in homeless if order else ():
        name = min(order, key=lambda name: (len(given[name]), order.index(name)))
        given[name] = sorted([*given[name], shnum])
    return {name: numbers for name, numbers in given.items() if numbers}


def _rarest(n: int, given: Mapping[str, Sequence[int]]) -> int:
    copies = [sum(shnum in numbers for numbers in given.values()) for shnum in range(n)]
    return copies.index(min(copies))
