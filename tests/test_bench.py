"""The benchmark runs and tells what it promises, on a file of a few kilobytes. No figure fails a test."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.bench.delay import delayed
from tests.bench.field import CHECKOUT
from tests.bench.table import Row, lines


def _measured(tmp_path: Path, *names: str) -> tuple[dict[str, Any], str]:
    """Rows of the report by name, and the table."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.bench", *names, "--size", "0.3", "--rounds", "1", "--json", str(report)]
    command += ["--files", "10", "--objects", "10", "--entries", "20", "--kept", "20", "--listed", "20"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(report.read_text())["rows"]}
    assert all(row["figure"] > 0 for row in rows.values())
    assert all(name in done.stdout for name in rows)
    return rows, done.stdout


@pytest.mark.slow
def test_repair_and_check_are_measured(tmp_path: Path) -> None:
    rows, table = _measured(tmp_path, "repair", "check")
    assert len(rows) == 5
    assert {row["target"] for row in rows.values()} == {1.6, 1000, None}
    assert all(row["baseline"] for name, row in rows.items() if name.startswith("repair"))
    assert table.count("peak RSS") == 5


@pytest.mark.slow
def test_edits_and_trees_are_measured(tmp_path: Path) -> None:
    rows, _table = _measured(tmp_path, "edit", "tree")
    assert len(rows) == 6
    assert {row["target"] for row in rows.values()} == {0.5, 8.0, 150, 250, 1000, None}


@pytest.mark.slow
def test_backups_are_measured(tmp_path: Path) -> None:
    rows, _table = _measured(tmp_path, "backup")
    assert {row["target"] for row in rows.values()} >= {2.5, 200}
    assert len(rows) == (8 if shutil.which("restic") else 7)


@pytest.mark.slow
def test_transfers_and_small_files_are_measured(tmp_path: Path) -> None:
    rows, _table = _measured(tmp_path, "put", "get", "verify", "many", "second")
    assert len(rows) == 11
    assert {row["target"] for row in rows.values()} == {1.45, 1.25, 1.5, 1.02, 1.3, 220, 100, 0.5, None}
    assert all(row["baseline"] for name, row in rows.items() if name.startswith(("put 0", "get", "verify")))


@pytest.mark.slow
def test_the_server_of_ours_is_measured(tmp_path: Path) -> None:
    rows, table = _measured(tmp_path, "serve")
    assert {name: row["target"] for name, row in rows.items()} == {
        name: 0.4 if "--listen" in name else 0.7 for name in rows
    }
    assert len(rows) == 4
    assert all(row["baseline"] and row["at_least"] for row in rows.values())
    assert table.count("CPU of all") == 4


@pytest.mark.slow
def test_the_gateway_is_measured(tmp_path: Path) -> None:
    rows, table = _measured(tmp_path, "gateway")
    assert len(rows) == 6
    assert {row["target"] for row in rows.values()} == {0.8, 5.0, 0.5, 200.0, None}
    assert sum(bool(row["baseline"]) for row in rows.values()) == 3
    assert table.count("peak RSS") == 3


def test_the_proxy_delays_each_direction_and_counts_every_byte() -> None:
    data = bytes(range(256)) * 4096
    with socket.create_server(("127.0.0.1", 0)) as listener:
        echo = threading.Thread(target=_echo, args=(listener,))
        echo.start()
        with delayed(0.05, [listener.getsockname()[1]]) as proxies:
            with socket.create_connection(("127.0.0.1", proxies.ports[0])) as client:
                began = time.monotonic()
                writer = threading.Thread(target=_send, args=(client, data))
                writer.start()
                first = client.recv(1 << 16)
                assert time.monotonic() - began >= 0.1
                received = first + b"".join(iter(lambda: client.recv(1 << 16), b""))
                writer.join()
            assert received == data
        echo.join()
    assert (proxies.sent, proxies.received) == (len(data), len(data))


def test_the_proxy_counts_round_trips() -> None:
    """Two connections, one that asks five times and one that asks for much at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener, delayed(0.02, [listener.getsockname()[1]]) as proxies:
        for question, times in ((b"q", 5), (bytes(50_000), 1)):
            echo = threading.Thread(target=_echo, args=(listener,))
            echo.start()
            with socket.create_connection(("127.0.0.1", proxies.ports[0])) as client:
                for _ in range(times):
                    client.sendall(question)
                    left = len(question)
                    while left:
                        left -= len(client.recv(left))
            echo.join()
    assert proxies.trips == [5]


def _echo(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while piece := connection.recv(1 << 16):
            connection.sendall(piece)


def _send(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def test_a_verdict_judges_the_ratio_where_there_is_a_baseline_and_else_the_figure() -> None:
    assert Row("put", 1.4, "s", baseline=1.0, target=1.45).verdict == "ok"
    assert Row("put", 1.5, "s", baseline=1.0, target=1.45).verdict == "MISSED"
    assert Row("files", 219, "files/s", target=220, at_least=True).verdict == "MISSED"
    assert Row("files", 220, "files/s", target=220, at_least=True).verdict == "ok"
    assert Row("second put", 0.5, "s", target=0.5).verdict == "ok"
    assert Row("first put", 0.5, "s").verdict == ""


def test_the_table_shows_figure_baseline_ratio_target_and_verdict() -> None:
    head, line = lines([Row("put", 1.5, "s", baseline=1.25, target=1.45, aim=1.3, note="quiet")])
    assert head.split() == ["what", "figure", "baseline", "ratio", "target", "verdict"]
    assert line.split() == ["put", "1.500", "s", "1.250", "s", "1.20", "x", "<=", "1.45", "(aim", "1.3)", "ok", "quiet"]
