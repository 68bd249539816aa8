"""Start-up against bare Python: `python -m tests.bench.startup [RUNS]`.

In a plain virtual environment of its own, into which the checkout is installed, and by a zipapp built there; all
commands interleaved, medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

CHECKOUT = Path(__file__).parent.parent.parent
LIMITS = {"lafs --version": 2.5, "lafs --help": 6.0, "zipapp --version": 6.0, "zipapp --help": 9.0}


def measure(folder: Path, runs: int) -> dict[str, float]:
    """Median seconds of each command, the bare one first."""
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    wanted = [str(CHECKOUT), "shiv", "packaging"]
    subprocess.run([programs / "python", "-m", "pip", "install", "-q", *wanted], check=True, capture_output=True)
    python, lafs = str(programs / "python"), str(programs / "lafs")
    built = subprocess.run([lafs, "build-zipapp", str(folder)], check=True, capture_output=True, text=True)
    archive = built.stdout.strip()
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "lafs --version": [lafs, "--version"],
        "lafs --help": [lafs, "--help"],
        "lafs put --help": [lafs, "put", "--help"],
        "zipapp --version": [python, archive, "--version"],
        "zipapp --help": [python, archive, "--help"],
        "zipapp put --help": [python, archive, "put", "--help"],
    }
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LAFS_", "XDG_", "PYTHON", "SHIV_"))}
    environment = {**kept, "SHIV_ROOT": str(folder / "shiv"), "HOME": str(folder)}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(each[1:]) for name, each in times.items()}  # the first run unpacks and compiles


def main() -> None:
    """Print the figures."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with TemporaryDirectory(prefix="lafs-startup-") as folder:
        medians = measure(Path(folder), runs)
    bare = medians["python -c pass"]
    for name, seconds in medians.items():
        limit = f"  (at most {LIMITS[name]} x)" if name in LIMITS else ""
        print(f"{name:<20} {seconds * 1000:7.1f} ms  {seconds / bare:5.2f} x{limit}")


if __name__ == "__main__":
    main()
