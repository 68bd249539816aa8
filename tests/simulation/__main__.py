"""Play seeds: `python -m tests.simulation FIRST [LAST] [--trace] [--guards | --outages] [--without RULE]`.

Ends with 1 at the first seed that fails, after it has said how to play that again. `--guards`: the guard of one server
alone. `--without`: with that rule switched off in the code (`mutants`), so that something must fail.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

_HASH_SEED = "0"
"""Sets in the code under test are gone through in this order, in every run."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int, nargs="?")
    parser.add_argument("--trace", action="store_true", help="show every step")
    parser.add_argument("--guards", action="store_true", help="the guard of one server alone")
    parser.add_argument("--outages", action="store_true", help="servers away, and clients that die, above all")
    parser.add_argument("--without", metavar="RULE", help="switch a rule off")
    parser.add_argument("--all", action="store_true", help="go on after a failure")
    given = parser.parse_args()
    from tests.simulation import guards, mutants

    play: Callable[[int, Callable[[str], None] | None], object] = guards.play
    if not given.guards:
        from tests.simulation import scenario

        play = partial(scenario.play, outages=given.outages)
    if given.without:
        mutants.switch_off(given.without)
    last = given.first if given.last is None else given.last
    began, failed = time.monotonic(), 0
    for seed in range(given.first, last + 1):
        try:
            played = play(seed, print if given.trace else None)
        except Exception as error:
            failed += 1
            traceback.print_exc(limit=None if last == given.first else -3)
            again = [word for word in sys.argv[1:] if word.startswith("--") and word not in ("--trace", "--all")]
            options = " ".join([*again, *([given.without] if given.without else [])])
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            print(f"replay: python -m tests.simulation {seed} --trace {options}".rstrip(), flush=True)
            if not given.all:
                return 1
        else:
            if last == given.first:
                print(f"seed {seed}: {played}")
    seconds = time.monotonic() - began
    print(f"{last + 1 - given.first} seeds, {failed} failed, {seconds:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != _HASH_SEED:
        os.environ["PYTHONHASHSEED"] = _HASH_SEED
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main())
