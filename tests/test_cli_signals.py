"""Signals end a command within two seconds; SIGUSR1 gives one line (CLI.md §1)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lafs_process import Lafs

LIT = "URI:LIT:krugkidfnzsc4"


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    return Lafs(tmp_path)


def _waiting(lafs: Lafs, *arguments: str, **more: object) -> subprocess.Popen[bytes]:
    """A batch that has answered one line and waits for the next."""
    running = lafs.start(
        *arguments, "batch", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
    )
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write(f"cap read {LIT}\n".encode())
    running.stdin.flush()
    assert running.stdout.readline().strip()
    return running


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_ends_it(lafs: Lafs, number: int, code: int) -> None:
    log = lafs.folder / "log"
    running = _waiting(lafs, "--log-file", str(log))
    began = time.monotonic()
    running.send_signal(number)
    said = running.communicate()[1]
    assert time.monotonic() - began < 2
    assert running.returncode == code
    assert said == b""
    assert log.read_text().splitlines()[-1].endswith(f'"event": "interrupted", "code": {code}}}')


def test_ignored_hangup_stays_ignored(lafs: Lafs) -> None:
    """As under nohup: the command goes on, and answers the next line."""
    running = _waiting(lafs, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    running.send_signal(signal.SIGHUP)
    out, _ = running.communicate(f"cap read {LIT}\n".encode())
    assert out.strip() == LIT.encode()
    assert running.returncode == 0


def test_usr1_gives_one_line_and_nothing_ends(lafs: Lafs) -> None:
    running = _waiting(lafs)
    running.send_signal(signal.SIGUSR1)
    assert running.stderr is not None
    assert running.stderr.readline() == b"lafs: no transfer under way\n"
    running.send_signal(signal.SIGUSR1)
    assert running.stderr.readline() == b"lafs: no transfer under way\n"
    out, err = running.communicate(f"cap read {LIT}\n".encode())
    assert (out.strip(), err, running.returncode) == (LIT.encode(), b"", 0)


def test_cleanup_that_hangs_is_cut_off(lafs: Lafs) -> None:
    """A server that never answers must not hold the end up."""
    program = (
        "import signal, threading, time\n"
        "from lafscli.cli import signals\n"
        "signals.install(lambda: '')\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "finally: threading.Event().wait()\n"
    )
    running = subprocess.Popen(
        [lafs.program[0], "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=lafs.environment()
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    began = time.monotonic()
    os.kill(running.pid, signal.SIGINT)
    running.communicate()
    assert time.monotonic() - began < 2
    assert running.returncode == 130
