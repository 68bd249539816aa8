"""Many small files, and a small file over connections that are there already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.bench import processes
from tests.bench.delay import delayed
from tests.bench.field import SERVERS, Field
from tests.bench.table import Row, median_row

FILES, FILE_SIZE = 1000, 10 * 1024
RATE, RATE_FAR = 220.0, 100.0
ROUND_TRIP = 0.02
SECOND_PUT = 0.5


def many(ground: Field, rounds: int, patience: float, *, count: int = FILES) -> list[Row]:
    """`count` new files in one `upload_many`, on servers near and far; connecting is part of it."""
    folder = ground.folder / "small"
    near: list[float] = []
    far: list[float] = []
    for _ in range(rounds):
        near.append(_rate(ground, folder, count, patience))
        with delayed(ROUND_TRIP / 2, [ground.servers.port(i) for i in range(SERVERS)]) as proxies:
            ground.through(proxies.ports)
            try:
                far.append(_rate(ground, folder, count, patience))
            finally:
                ground.settle()
                ground.direct()
    label = f"{count} files of {FILE_SIZE // 1024} KiB"
    return [
        median_row(label, near, "files/s", target=RATE, at_least=True),
        median_row(
            f"{label}, round trips of {ROUND_TRIP * 1000:.0f} ms", far, "files/s", target=RATE_FAR, at_least=True
        ),
    ]


def _rate(ground: Field, folder: Path, count: int, patience: float) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number in range(count):
        ground.random_file(f"small/{number}", FILE_SIZE)
    ground.clear()
    processes.wait_for_quiet(patience)
    cost = ground.python("-m", "tests.bench.driver", "many", ground.folder / "home", folder)
    answer = json.loads(cost.output)
    assert (answer["failed"], answer["shares"]) == (0, count * SERVERS), f"not every share was stored: {answer}"
    return count / float(answer["seconds"])


def second_put(ground: Field, rounds: int, patience: float) -> list[Row]:
    """`put` of 1 KiB while the connections of an earlier one are kept."""
    first: list[float] = []
    second: list[float] = []
    for _ in range(rounds):
        ground.clear()
        processes.wait_for_quiet(patience)
        first.append(ground.lafs("put", ground.random_file("one", 1024)).wall)
        ground.lafs("put", ground.random_file("one", 1024), connected=True)
        second.append(ground.lafs("put", ground.random_file("one", 1024), connected=True).wall)
    return [
        median_row("put 1 KiB, nothing connected", first, "s"),
        median_row("put 1 KiB, within persist", second, "s", target=SECOND_PUT),
    ]
