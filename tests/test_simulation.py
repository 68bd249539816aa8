"""Concurrent writers lose nothing, in thousands of histories that seeds decide (spec 10 §4); `tests/simulation`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARDS = 300
"""Seeds of the default suite for the guard alone."""


def played(first: int, last: int, *options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the order of sets in it is the same each time."""
    command = [sys.executable, "-m", "tests.simulation", str(first), str(last), *options]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1], check=False
    )


def play(first: int, last: int, *options: str) -> None:
    done = played(first, last, *options)
    assert done.returncode == 0, done.stderr[-5000:] + done.stdout[-2000:]


def test_guards_of_one_server() -> None:
    play(0, GUARDS - 1, "--guards")


@pytest.mark.parametrize("mode", [(), ("--outages",)])
def test_concurrent_writers_lose_nothing(mode: tuple[str, ...]) -> None:
    play(0, 19, *mode)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("--outages",)])
def test_nor_in_the_histories_that_come_next(mode: tuple[str, ...]) -> None:
    play(20, 59, *mode)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 5000, 400))
def test_concurrent_writers_lose_nothing_in_thousands_of_histories(first: int) -> None:
    play(first, first + 399)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 2200, 400))
def test_nor_where_servers_are_away_and_clients_die(first: int) -> None:
    play(first, first + 399, "--outages")


def test_a_seed_is_one_history() -> None:
    """What it says at its end has a digest of all that happened in it."""
    first, second = (played(11, 11, "--outages").stdout.splitlines()[0] for _ in range(2))
    assert first == second
    assert "digest" in first


@pytest.mark.parametrize(
    ("rule", "mode", "seeds"),
    [
        ("staged", (), 200),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in [
                ("survivors", (), 200),
                ("fence", ("--guards",), 3000),
                ("copies", (), 500),
                ("broken", (), 500),
                ("kept", (), 2000),
                ("committed", (), 2000),
                ("unseen", ("--outages",), 1500),
                ("seqnum", ("--outages",), 1500),
                ("again", ("--outages",), 1000),
            ]
        ),
    ],
)
def test_each_rule_is_needed(rule: str, mode: tuple[str, ...], seeds: int) -> None:
    """Without it something is lost, or refused for ever; so the simulation can see it (`mutants` says which it is)."""
    done = played(0, seeds - 1, *mode, "--without", rule)
    assert done.returncode == 1, f"in {seeds} histories nobody missed it"
    assert "Lost: " in done.stdout, done.stdout[-2000:]
