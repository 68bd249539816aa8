"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import backups, gateway, health, processes, served, small, startup, trees
from tests.bench.field import Field, laid_out
from tests.bench.subject import Subject
from tests.bench.table import Row, lines
from tests.bench.transfers import Transfers

NAMES = (
    "put",
    "get",
    "verify",
    "repair",
    "many",
    "second",
    "check",
    "edit",
    "tree",
    "backup",
    "serve",
    "gateway",
    "startup",
)


class Bench:
    """All measurements; the ten servers are started when the first one needs them."""

    def __init__(self, stack: ExitStack, options: argparse.Namespace) -> None:
        self._stack = stack
        self._options = options
        self._made: Field | None = None
        self._subject: Subject | None = None

    def run(self, name: str) -> list[Row]:
        """The rows of one name."""
        rounds, patience = self._options.rounds, self._options.quiet
        runs: dict[str, Callable[[], list[Row]]] = {
            "put": lambda: Transfers(self._large(), rounds, patience).put(),
            "get": lambda: Transfers(self._large(), rounds, patience).get(),
            "verify": lambda: health.Mending(self._large(), rounds, patience).verify(),
            "repair": lambda: health.Mending(self._large(), rounds, patience).repair(),
            "many": lambda: small.many(self._field(), rounds, patience, count=self._options.files),
            "second": lambda: small.second_put(self._field(), rounds, patience),
            "check": lambda: health.Counting(self._field(), self._options.objects).rows(rounds, patience),
            "edit": lambda: trees.Editing(self._field(), self._options.entries).rows(rounds),
            "tree": lambda: trees.Trees(self._field(), self._options.files).rows(rounds, patience),
            "serve": self._serve,
            "gateway": lambda: gateway.rows(
                self._large(), rounds, patience, files=self._options.files, entries=self._options.listed
            ),
            "backup": lambda: backups.Backups(self._field(), self._options.kept).rows(rounds, patience),
            "startup": self._startup,
        }
        return runs[name]()

    def _field(self) -> Field:
        if self._made is None:
            self._made = self._stack.enter_context(laid_out(self._options.folder))
        return self._made

    def _large(self) -> Subject:
        if self._subject is None:
            self._subject = Subject(self._field(), round(self._options.size * 1_000_000))
        return self._subject

    def _serve(self) -> list[Row]:
        size = round(self._options.size * 1_000_000)
        with served.laid_out(self._options.folder, size, self._options.serve) as made:
            return made.rows(self._options.rounds, self._options.quiet)

    def _startup(self) -> list[Row]:
        with TemporaryDirectory(prefix="lb-", dir=self._options.folder) as folder:
            medians = startup.measure(Path(folder), max(15, 5 * self._options.rounds))
        bare = medians.pop("python -c pass")
        return [
            Row(name, seconds * 1000, "ms", bare * 1000, startup.LIMITS.get(name)) for name, seconds in medians.items()
        ]


def main() -> None:
    """Measure what the command line names, print the table. Exit code 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=f"of {', '.join(NAMES)}; all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (3)")
    parser.add_argument("--size", type=float, default=300, metavar="MB", help="of the large file (300)")
    parser.add_argument("--files", type=int, default=small.FILES, help="how many small ones (1000)")
    parser.add_argument("--objects", type=int, default=health.OBJECTS, help="how many are checked (5000)")
    parser.add_argument("--entries", type=int, default=trees.ENTRIES, help="of the directory that is changed (1000)")
    parser.add_argument("--listed", type=int, default=gateway.ENTRIES, help="of the directory as JSON (5000)")
    parser.add_argument("--serve", metavar="COMMAND", help="in place of `lafs serve --stdio`; {root} is its folder")
    parser.add_argument("--kept", type=int, default=backups.FILES, help="files of the tree that is backed up (5000)")
    parser.add_argument("--quiet", type=float, default=0, metavar="SECONDS", help="wait so long for an idle machine")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the servers are (in memory, if possible)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    machine = processes.machine()
    print(f"{machine['cpus']} CPUs, {machine['model']}, {machine['ssh']}, load {machine['load'][0]:.1f}", flush=True)
    rows: list[Row] = []
    with ExitStack() as stack:
        bench = Bench(stack, options)
        for name in options.names or NAMES:
            print(f"{name} …", end=" ", file=sys.stderr, flush=True)
            rows += bench.run(name)
            print(f"load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
    print("\n".join(lines(rows)))
    if options.json is not None:
        document = {"machine": machine, "rows": [row.document() for row in rows]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
