"""Runs that are compared with each other: in turns, the quiet ones counted, one row each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.bench import processes
from tests.bench.processes import Cost
from tests.bench.table import Row, median_row

_NOISE = 0.15
"""CPUs that others may use during a run that counts, if enough other runs are there."""


@dataclass
class Series:
    """The costs of what is run in turns, by name; `wanted` rounds of them count."""

    wanted: int
    rounds: list[dict[str, Cost]] = field(default_factory=list)

    def quiet(self) -> list[dict[str, Cost]]:
        """The `wanted` rounds in which others used least of the machine."""
        return sorted(self.rounds, key=lambda each: max(cost.others for cost in each.values()))[: self.wanted]

    def noise(self) -> float:
        return max((cost.others for each in self.quiet() for cost in each.values()), default=0.0)

    def median(self, name: str, part: Callable[[Cost], float]) -> float:
        """Of the rounds that count."""
        return statistics.median(part(each[name]) for each in self.quiet())

    def peak(self, name: str) -> float:
        """MiB of the largest process of any round that counts."""
        return max(each[name].peak for each in self.quiet()) / (1 << 20)

    def noisy(self) -> str:
        """Says so, to be put behind a note."""
        return f"; noisy: others used {self.noise():.1f} CPUs" if self.noise() > _NOISE else ""


def in_turns(runs: Sequence[tuple[str, Callable[[], Cost]]], wanted: int, patience: float) -> Series:
    """Run all of them `wanted` times, in turns, the order reversed every other time.

    Rounds in which others kept the machine busy are repeated, up to as many again.
    """
    series = Series(wanted)
    while len(series.rounds) < wanted or (series.noise() > _NOISE and len(series.rounds) < 2 * wanted):
        order = list(runs) if len(series.rounds) % 2 == 0 else list(reversed(runs))
        costs: dict[str, Cost] = {}
        for name, run in order:
            processes.wait_for_quiet(patience)
            costs[name] = run()
        series.rounds.append(costs)
    return series


def client(cost: Cost) -> float:
    """CPU seconds of lafs or `sftp`, and their ssh."""
    return cost.cpu


def everyone(cost: Cost) -> float:
    """The same with the servers."""
    return cost.cpu + cost.servers


def seconds_row(
    series: Series, label: str, name: str, base: str, target: float | None = None, aim: float | None = None
) -> Row:
    """The wall time of the runs called `name`, compared with those called `base`."""
    counted = series.quiet()
    mine, whole = ([series.median(who, part) for who in (name, base)] for part in (client, everyone))
    note = f"CPU of the client {mine[0]:.2f} s (sftp {mine[1]:.2f}), with the servers {whole[0]:.2f} ({whole[1]:.2f})"
    note += f", peak RSS {series.peak(name):.0f} MiB{series.noisy()}"
    costs = [{"lafs": each[name].document(), "sftp": each[base].document()} for each in counted]
    baseline = series.median(base, lambda cost: cost.wall)
    figures = [each[name].wall for each in counted]
    return median_row(label, figures, "s", baseline=baseline, target=target, aim=aim, note=note, costs=costs)


def rate_row(series: Series, label: str, name: str, count: int, unit: str, target: float | None = None) -> Row:
    """How many of `count` things were done in a second by the runs called `name`; at least `target`."""
    counted = series.quiet()
    note = f"CPU of the client {series.median(name, client):.2f} s, with the servers "
    note += f"{series.median(name, everyone):.2f}, peak RSS {series.peak(name):.0f} MiB{series.noisy()}"
    costs = [{"lafs": each[name].document()} for each in counted]
    rates = [count / each[name].wall for each in counted]
    return median_row(label, rates, unit, target=target, at_least=True, note=note, costs=costs)
