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


def test_without_the_fence_the_guards_lose_something() -> None:
    done = played(0, 1500, "--guards", "--without", "fence")
    assert done.returncode == 1
    assert "Lost: " in done.stdout


@pytest.mark.parametrize("first", range(0, 200, 100))
def test_concurrent_writers_lose_nothing(first: int) -> None:
    play(first, first + 99)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 6000, 500))
def test_concurrent_writers_lose_nothing_in_five_thousand_histories(first: int) -> None:
    play(first, first + 499)
