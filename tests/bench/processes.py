"""Run processes and know what they cost: wall time, CPU of all that belongs to them, memory, and what others used."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_CLIENT, _SERVERS = "ssh", ("sshd", "sshd-session", "sftp-server")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run cost. `cpu`: seconds of user and system time of the processes that were started, with their
    children; `servers`: those of the servers; `others`: CPU seconds that anybody else used meanwhile, per second (NaN
    where that can't be known)."""

    wall: float
    cpu: float
    servers: float
    peak: int
    others: float
    output: str = ""

    def __add__(self, later: Cost) -> Cost:
        """Of both, one after the other."""
        wall = self.wall + later.wall
        return Cost(
            wall,
            self.cpu + later.cpu,
            self.servers + later.servers,
            max(self.peak, later.peak),
            (self.others * self.wall + later.others * later.wall) / wall,
            self.output + later.output,
        )

    def document(self) -> dict[str, float]:
        """For the JSON file."""
        seconds = {"wall": self.wall, "cpu": self.cpu, "servers": self.servers, "others": self.others}
        return {name: round(value, 3) for name, value in seconds.items()} | {"peak": self.peak}


def adopt_orphans() -> None:
    """Become the parent of processes whose parent ends: ssh's shared connections, whose cost then is ours to know."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(
    commands: Sequence[Sequence[str | Path]],
    *,
    environment: Mapping[str, str] | None = None,
    inputs: Sequence[str] | None = None,
    folder: Path | None = None,
    log: Path,
    settle: Callable[[], float] | None = None,
) -> Cost:
    """Run these together and wait for all. `settle` is called after them, untimed; it ends what they left behind and
    answers the CPU time of the servers, which is nobody else's. Stdout and stderr go to `log`.*; RuntimeError with
    their end when one of them fails."""
    outputs = log.with_suffix(".out")
    errors = log.with_suffix(".err")
    before_servers = settle() if settle is not None else 0.0
    _reap_adopted()
    before = busy()
    began = time.perf_counter()
    with outputs.open("wb") as out, errors.open("wb") as err:
        started = []
        for index, command in enumerate(commands):
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE if inputs is not None else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=folder,
            )
            if inputs is not None:
                assert process.stdin is not None
                process.stdin.write(inputs[index].encode())
                process.stdin.close()
            started.append(process)
        cpu, peak, failed = 0.0, 0, False
        for process in started:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            failed |= process.returncode != 0
            cpu += usage.ru_utime + usage.ru_stime
            peak = max(peak, usage.ru_maxrss * 1024)
    wall = time.perf_counter() - began
    after = busy()
    servers = settle() - before_servers if settle is not None else 0.0
    cpu += _reap_adopted()
    if failed:
        raise RuntimeError(f"{' '.join(map(str, commands[0]))} failed:\n{errors.read_text(errors='replace')[-4000:]}")
    others = max(0.0, after - before - cpu - servers) / wall
    return Cost(wall, cpu, servers, peak, others, outputs.read_text(errors="replace"))


def end_adopted(keep: Sequence[int]) -> float:
    """End the ssh processes that were left to us, and wait for the servers' processes that were, but for `keep`.

    CPU seconds of the servers; those of ssh are counted by the run that left it.
    """
    servers = 0.0
    for pid in children(os.getpid()):
        name = _name(pid)
        if pid in keep or name not in (_CLIENT, *_SERVERS):
            continue
        with suppress(OSError):
            if name == _CLIENT:
                os.kill(pid, signal.SIGTERM)
            _, _, usage = os.wait4(pid, 0)
            cpu = usage.ru_utime + usage.ru_stime
            if name == _CLIENT:
                _ended.append(cpu)
            else:
                servers += cpu
    return servers


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")[0]
    except OSError:
        return ""


_ended: list[float] = []


def _reap_adopted() -> float:
    """CPU seconds of the client's processes that `end_adopted` ended since the last call."""
    total = sum(_ended)
    _ended.clear()
    return total


def children(pid: int) -> list[int]:
    """Process ids of the children of a process; none if it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def cpu_with_children(pid: int) -> float:
    """CPU seconds of a process and of all its descendants that have ended and been waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICK


def busy() -> float:
    """CPU seconds that the whole machine has worked, and that were stolen from it."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return float("nan")
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / _TICK


def wait_for_quiet(limit: float) -> None:
    """Wait until the machine is idle (less than a tenth of one CPU for half a second), at most `limit` seconds."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        before, began = busy(), time.perf_counter()
        time.sleep(0.5)
        if (busy() - before) / (time.perf_counter() - began) < 0.1:
            return


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr.strip()
    return {"cpus": os.cpu_count(), "model": model, "kernel": os.uname().release, "ssh": ssh, "load": os.getloadavg()}
