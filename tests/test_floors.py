"""The house: who may see whom, which library has which door (DESIGN §2, STYLE).

`complaints` reads sources, never runs them, and answers with one sentence for each rule that is broken.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import lafscli

PACKAGE = Path(lafscli.__file__).parent

FLOORS = {
    0: ["errors", "primitives"],
    1: ["formats", "placement", "proof"],
    2: ["storage", "config"],
    3: ["immutable", "mutable", "server"],
    4: ["tree"],
    5: ["health"],
    6: ["backup", "recovery"],
    7: ["client"],
    8: ["gateway"],
    9: ["cli"],
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
STEPS = {("primitives", "errors"), ("proof", "formats")}  # on one floor, but the first stands above the second

# of storage: the server's own folder access, and what client and server must share to the byte: the words of the wire,
# the names in a guard and who holds it, and what `server.toml` says
SERVED = (
    *("storage/local", "storage/packets", "storage/moves", "storage/owner"),
    *("storage/enrol", "storage/membership", "storage/serverfile"),
)

BOOTSTRAP = "cli/zipapp_start"  # text of the zipapp's own first code: it runs before there is a lafscli to import

# room, or room/module, where a library may be imported; `cli/` is every module of the room
GATEWAY = ("gateway/",)
GATES = "cli/gate"  # begins the names of the commands that open a gateway: no other loads its libraries
WEB = ("starlette", "uvicorn", "httptools", "jinja2", "markupsafe", "multipart", "anyio")
THREADS = ("storage/grid", "immutable/pipeline", "server/", "gateway/")
PUMPS = (*THREADS, "storage/streams")  # two threads carry the bytes of a paramiko channel, which is no descriptor
DOORS = {
    "cryptography": ("primitives/ciphers",),
    "nacl": ("primitives/ciphers",),
    "zfec": ("primitives/erasure",),
    "paramiko": ("storage/streams", "server/daemon", "gateway/sftp"),
    "click": ("cli/",),
    "rich": ("cli/",),
    "sqlite3": ("storage/memory", "backup/database"),
    "http": GATEWAY,
    "socketserver": GATEWAY,
    "wsgiref": GATEWAY,
    "threading": PUMPS,
    "_thread": THREADS,
    "queue": THREADS,
    "concurrent": THREADS,
    "multiprocessing": THREADS,
    "asyncio": THREADS,
    "shiv": (),
    **dict.fromkeys(WEB, GATEWAY),
}
NO_THREAD = ("concurrent.futures", "Future")  # what Grid.submit answers (DESIGN §3); it starts nothing
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv", "expanduser", "expandvars"}
ENVIRONMENT_DOORS = ("config", "config/", BOOTSTRAP)

PURE = {"primitives", "formats", "proof", "placement"}
UNPURE = {
    *("os", "pathlib", "shutil", "tempfile", "glob", "fcntl", "socket", "select", "selectors", "subprocess", "ssl"),
    *("time", "datetime", "random", "secrets", "uuid", "logging"),
}

NEVER_FIRST = {"paramiko", "cryptography", "nacl"}  # imported where first used (DESIGN §1.17)
HEAVY = {*NEVER_FIRST, "rich", "zfec", *WEB}
START = ("__main__", "cli/main", "cli/table")  # what every start of the program imports

BAD_NAMES = {"utils", "util", "common", "interfaces"}
LONGEST = 420


@dataclass(frozen=True)
class Import:
    """One imported module, by its full dotted name. `first`: when the module itself is imported, and at run time."""

    line: int
    module: str
    name: str | None
    first: bool

    @property
    def library(self) -> str:
        return self.module.partition(".")[0]


def imports_of(tree: ast.Module, package: str) -> Iterator[Import]:
    """Every import, wherever it stands; `package` is the dotted name that relative imports start from."""

    def visit(node: ast.AST, first: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, None, first) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (Import(node.lineno, module, alias.name, first) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from visit(statement, False)
            for statement in node.orelse:
                yield from visit(statement, first)
        else:
            inside = first and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, inside)

    yield from visit(tree, True)


def may_see(room: str, other: str) -> bool:
    return room == other or FLOOR_OF[room] > FLOOR_OF[other] or (room, other) in STEPS


def at_door(path: str, doors: tuple[str, ...]) -> bool:
    return any(path.startswith(door) if door.endswith("/") else path == door for door in doors)


class House:
    """The sources, by path without suffix under the package: `placement`, `cli/main`, `cli/__init__`, `__init__`."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources
        self.trees = {path: ast.parse(source) for path, source in sources.items()}
        self.imports = {
            path: list(imports_of(tree, ".".join(["lafscli", *path.split("/")[:-1]])))
            for path, tree in self.trees.items()
        }

    def target(self, found: Import) -> str | None:
        """The path of the module of ours that an import reaches; one that is not here counts by its name."""
        if found.library != "lafscli":
            return None
        path = "/".join(found.module.split(".")[1:])
        for candidate in (f"{path}/{found.name}".lstrip("/"), f"{path}/{found.name}/__init__".lstrip("/")):
            if found.name is not None and candidate in self.sources:
                return candidate
        for candidate in (path, f"{path}/__init__".lstrip("/")):
            if candidate in self.sources:
                return candidate
        if not path:  # from lafscli import something
            return found.name if found.name in FLOOR_OF else "__init__"
        return path

    def complaints(self) -> list[str]:
        rules = [self.rooms, self.doors, self.environment, self.purity, self.names, self.lengths, self.start]
        return sorted({complaint for rule in [*rules, self.circles] for complaint in rule()})

    def rooms(self) -> Iterator[str]:
        for path, imports in self.imports.items():
            room = path.partition("/")[0]
            if room == "__main__":
                continue
            if room != "__init__" and room not in FLOOR_OF:
                yield f"{path}: {room} is no room of the house"
                continue
            for found in imports:
                target = self.target(found)
                if target is None:
                    continue
                other = target.partition("/")[0]
                place = f"{path}:{found.line}"
                if other == "__init__" or (path, target) == (BOOTSTRAP, "__main__"):
                    continue
                if other not in FLOOR_OF:
                    yield f"{place}: imports {found.module}, which is no room of the house"
                elif room == "__init__":
                    yield f"{place}: the package itself imports {other}, and with it everything would"
                elif not may_see(room, other):
                    how = "on the same floor" if FLOOR_OF[room] == FLOOR_OF[other] else "on a higher floor"
                    yield f"{place}: {room} imports {other}, a room {how}"
                elif (room, other) == ("cli", "gateway") and not path.startswith(GATES):
                    yield f"{place}: imports gateway, which is for the commands in {GATES}* alone"
                elif room == "server" and other == "storage" and target not in SERVED:
                    yield f"{place}: server imports {target}, but of storage it may see only {', '.join(SERVED)}"

    def doors(self) -> Iterator[str]:
        for path, imports in self.imports.items():
            for found in imports:
                doors = DOORS.get(found.library)
                if doors is None or (found.module, found.name) == NO_THREAD:
                    continue
                place = f"{path}:{found.line}"
                if not doors:
                    yield f"{place}: imports {found.library}, which no module may import"
                elif not at_door(path, doors):
                    yield f"{place}: imports {found.library}, whose door is {', '.join(doors)}"
                elif found.library in NEVER_FIRST and found.first:
                    yield f"{place}: imports {found.library} at the top; it must be imported where it is first used"

    def environment(self) -> Iterator[str]:
        for path, tree in self.trees.items():
            if at_door(path, ENVIRONMENT_DOORS):
                continue
            for node in ast.walk(tree):
                name = None
                if isinstance(node, ast.Attribute):
                    is_home = (
                        node.attr == "home" and isinstance(node.value, ast.Name) and node.value.id.endswith("Path")
                    )
                    name = node.attr if node.attr in ENVIRONMENT else "Path.home" if is_home else None
                elif isinstance(node, ast.ImportFrom) and node.module in ("os", "os.path", "posixpath"):
                    name = next((alias.name for alias in node.names if alias.name in ENVIRONMENT), None)
                if name is not None:
                    yield f"{path}:{node.lineno}: uses {name}; environment and home folder are for config alone"  # type: ignore[attr-defined]

    def purity(self) -> Iterator[str]:
        for path, imports in self.imports.items():
            room = path.partition("/")[0]
            for found in imports:
                if room in PURE and found.library in UNPURE:
                    rule = f"but {room} knows no files, clocks or randomness"
                    yield f"{path}:{found.line}: imports {found.library}, {rule}"

    def names(self) -> Iterator[str]:
        for path, imports in self.imports.items():
            for bad in sorted(BAD_NAMES & set(path.split("/"))):
                yield f"{path}: {bad} says nothing about what is inside; a module is one noun"
            for found in imports:
                if found.library == "lafscli":
                    for bad in sorted(BAD_NAMES & {*found.module.split("."), found.name}):
                        yield f"{path}:{found.line}: imports {bad}, a name that says nothing"

    def lengths(self) -> Iterator[str]:
        for path, source in self.sources.items():
            lines = len(source.splitlines())
            if lines > LONGEST:
                yield f"{path}: has {lines} lines; more than {LONGEST} are two nouns"

    def start(self) -> Iterator[str]:
        """What is imported before any command runs must be light: `--help` and completion stay fast."""
        for begin in START:
            came: dict[str, str | None] = {begin: None} if begin in self.sources else {}
            queue = list(came)
            for path in queue:
                for found in self.imports[path]:
                    if not found.first:
                        continue
                    if found.library in HEAVY:
                        way = [path]
                        while (before := came[way[-1]]) is not None:
                            way.append(before)
                        yield f"{path}:{found.line}: {found.library} is imported at every start ({' < '.join(way)})"
                    target = self.target(found)
                    if target is not None:
                        for reached in (target, f"{target.rpartition('/')[0]}/__init__".lstrip("/")):
                            if reached in self.sources and reached not in came:
                                came[reached] = path
                                queue.append(reached)

    def circles(self) -> Iterator[str]:
        """Two modules that need each other share a noun; an import inside a function only hides that."""
        done: set[str] = set()
        for begin in sorted(self.sources):
            stack: list[tuple[str, Iterator[str]]] = (
                [(begin, iter(self.neighbours(begin)))] if begin not in done else []
            )
            trail = [begin]
            while stack:
                path, rest = stack[-1]
                following = next(rest, None)
                if following is None:
                    done.add(path)
                    stack.pop()
                    trail.pop()
                elif following in trail:
                    yield f"{path}: imports in a circle: {' > '.join([*trail[trail.index(following) :], following])}"
                elif following not in done:
                    trail.append(following)
                    stack.append((following, iter(self.neighbours(following))))

    def neighbours(self, path: str) -> list[str]:
        targets = {self.target(found) for found in self.imports[path]}
        return sorted(t for t in targets if t in self.sources and t is not None and not t.endswith("__init__"))


@cache
def house_on_disk() -> House:
    return House(
        {
            path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(PACKAGE.rglob("*.py"))
        }
    )


# ---- the house as it is ----------------------------------------------------------------------------------------


def test_the_house_is_in_order() -> None:
    complaints = house_on_disk().complaints()
    assert not complaints, "\n".join(["", *complaints])


def test_the_whole_house_was_looked_at() -> None:
    house = house_on_disk()
    assert {"__init__", "__main__", "errors", "placement", "primitives/hashes", "storage/store", "cli/main"} <= set(
        house.sources
    )
    assert house.target(Import(1, "lafscli.formats.caps", "parse", True)) == "formats/caps"
    assert any(found.library == "cryptography" for found in house.imports["primitives/ciphers"])


# ---- the checker itself ----------------------------------------------------------------------------------------

VIOLATIONS = [
    # rooms
    (
        "primitives/hashes",
        "from lafscli.formats.caps import parse",
        "primitives imports formats, a room on a higher floor",
    ),
    ("errors", "import lafscli.primitives", "errors imports primitives, a room on the same floor"),
    ("formats/chk", "from lafscli.proof import shares", "formats imports proof, a room on the same floor"),
    ("formats/chk", "from lafscli.placement import plan", "formats imports placement, a room on the same floor"),
    ("proof/shares", "from lafscli import placement", "proof imports placement, a room on the same floor"),
    ("placement", "from lafscli import proof", "placement imports proof, a room on the same floor"),
    ("storage/grid", "import lafscli.config", "storage imports config, a room on the same floor"),
    (
        "immutable/upload",
        "def f():\n    from lafscli.mutable import survey",
        "immutable imports mutable, a room on the same",
    ),
    ("health/check", "from ..client import connect", "health imports client, a room on a higher floor"),
    ("backup/create", "from .. import recovery", "backup imports recovery, a room on the same floor"),
    ("gateway/http", "from lafscli.cli.output import show", "gateway imports cli, a room on a higher floor"),
    ("config", "if TYPE_CHECKING:\n    from lafscli.client import Client", "config imports client, a room on a higher"),
    ("server/files", "from lafscli.storage.store import Files", f"of storage it may see only {', '.join(SERVED)}"),
    ("server/files", "import lafscli.storage", f"of storage it may see only {', '.join(SERVED)}"),
    ("cellar/wine", "", "cellar is no room of the house"),
    ("tree/walk", "import lafscli.cellar.wine", "imports lafscli.cellar.wine, which is no room"),
    ("__init__", "from lafscli.errors import LafsError", "the package itself imports errors"),
    ("cli/files", "def f():\n    from lafscli.gateway import desk", "imports gateway, which is for the commands in"),
    # doors
    ("storage/sftp", "import cryptography", "imports cryptography, whose door is primitives/ciphers"),
    ("recovery", "def f():\n    from nacl.secret import SecretBox", "imports nacl, whose door is primitives/ciphers"),
    ("proof/encoder", "import zfec", "imports zfec, whose door is primitives/erasure"),
    ("storage/sftp", "def f():\n    import paramiko", "imports paramiko, whose door is storage/streams"),
    ("client", "import rich.table", "imports rich, whose door is cli/"),
    ("__main__", "import click", "imports click, whose door is cli/"),
    ("storage/grid", "import sqlite3", "imports sqlite3, whose door is storage/memory, backup/database"),
    (
        "storage/sftp",
        "if TYPE_CHECKING:\n    from threading import Lock",
        "imports threading, whose door is storage/grid",
    ),
    ("immutable/upload", "from queue import Queue", "imports queue, whose door"),
    ("health/check", "import concurrent.futures", "imports concurrent, whose door"),
    ("health/check", "from concurrent.futures import Future, wait", "imports concurrent, whose door"),
    ("cli/admin", "from lafscli.__main__ import main", "imports lafscli.__main__, which is no room"),
    ("cli/admin", "import http.server", "imports http, whose door is gateway/"),
    ("cli/gatehttp", "def f():\n    import uvicorn", "imports uvicorn, whose door is gateway/"),
    ("cli/generate", "def f():\n    import shiv", "imports shiv, which no module may import"),
    # when
    ("storage/streams", "import paramiko", "imports paramiko at the top; it must be imported where it is first used"),
    ("primitives/ciphers", "try:\n    import nacl\nexcept ImportError:\n    pass", "imports nacl at the top"),
    ("primitives/ciphers", "class A:\n    from cryptography import x509", "imports cryptography at the top"),
    # environment and home
    ("client", "import os\nos.environ['HOME']", "client:2: uses environ; environment and home folder are for config"),
    ("client", "from os import environ", "uses environ"),
    ("cli/main", "import os\nos.getenv('X')", "uses getenv"),
    ("cli/main", "p = Path.home()", "uses Path.home"),
    ("cli/main", "p = Path('~').expanduser()", "uses expanduser"),
    ("cli/main", "p = os.path.expanduser('~')", "uses expanduser"),
    # purity
    ("formats/chk", "import os", "imports os, but formats knows no files, clocks or randomness"),
    ("placement", "from random import shuffle", "imports random, but placement knows"),
    ("proof/encoder", "def f():\n    import time", "imports time, but proof knows"),
    # names
    ("storage/utils", "", "utils says nothing about what is inside"),
    ("common/__init__", "", "common says nothing about what is inside"),
    ("tree/walk", "from lafscli.tree import interfaces", "imports interfaces, a name that says nothing"),
    # length
    ("tree/walk", "x = 1\n" * 421, "has 421 lines; more than 420 are two nouns"),
    # start
    ("cli/main", "import rich", "rich is imported at every start (cli/main)"),
    ("cli/table", "import jinja2", "jinja2 is imported at every start (cli/table)"),
]


@pytest.mark.parametrize(("path", "source", "expected"), VIOLATIONS)
def test_a_broken_rule_is_told(path: str, source: str, expected: str) -> None:
    complaints = House({path: source}).complaints()
    assert any(expected in complaint for complaint in complaints), complaints


ALLOWED = [
    ("primitives/hashes", "import hashlib\nfrom lafscli.errors import CorruptShare"),
    ("proof/shares", "from lafscli.formats.caps import ChkVerifyCap\nfrom lafscli.primitives import hashes"),
    ("placement", "from lafscli.errors import UsageError"),
    ("storage/folder", "from lafscli.proof import shares\nfrom lafscli.placement import plan\nfrom . import store"),
    ("server/files", "from lafscli.storage.local import LocalFiles"),
    (
        "cli/files",
        "import click\nimport rich\nfrom lafscli import __version__, client\nfrom lafscli.health.check import check",
    ),
    ("__main__", "from lafscli.cli.main import main"),
    ("cli/gatehttp", "def f():\n    from lafscli.gateway import http"),
    ("gateway/app", "from starlette.requests import Request\nimport anyio"),
    ("storage/streams", "def f():\n    import paramiko\nif TYPE_CHECKING:\n    import paramiko"),
    ("primitives/ciphers", "def f():\n    from cryptography import x509"),
    ("primitives/erasure", "import zfec"),
    ("storage/grid", "import threading, queue\nfrom concurrent.futures import Future"),
    ("config", "import os\nos.environ\nPath.home()\nPath('~').expanduser()"),
    ("config/environment", "import os\nos.environ"),
    ("cli/main", "def f():\n    import rich"),
    ("cli/zipapp_start", "import os\nos.environ\ndef start():\n    from lafscli.__main__ import main"),
    ("immutable/upload", "from concurrent.futures import Future"),
    ("storage/local", "home = self.home\nimport os, time"),
    ("tree/walk", "x = 1\n" * 420),
]


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_what_is_allowed_is_not_told(path: str, source: str) -> None:
    assert House({path: source}).complaints() == []


def test_what_the_start_imports_is_followed_through_modules_and_packages() -> None:
    house = House(
        {
            "__main__": "def main():\n    from lafscli.cli.main import main",
            "cli/__init__": "",
            "cli/main": "from lafscli.cli import table\nfrom lafscli.client import Client",
            "cli/table": "def f():\n    import rich",
            "client": "from lafscli.proof import encoder",
            "proof/__init__": "",
            "proof/encoder": "from lafscli.primitives.erasure import encode",
            "primitives/__init__": "",
            "primitives/erasure": "import zfec",
        }
    )
    assert house.complaints() == [
        "primitives/erasure:1: zfec is imported at every start (primitives/erasure < proof/encoder < client < cli/main)"
    ]


def test_from_a_package_its_modules_are_told_apart() -> None:
    house = House(
        {"server/files": "from lafscli.storage import local\nfrom lafscli.storage import store"}
        | dict.fromkeys(["storage/__init__", "storage/local", "storage/store"], "")
    )
    assert house.complaints() == [
        f"server/files:2: server imports storage/store, but of storage it may see only {', '.join(SERVED)}"
    ]


def test_a_package_that_pulls_in_something_heavy_is_found() -> None:
    house = House({"cli/main": "from lafscli.cli import table", "cli/__init__": "import rich", "cli/table": ""})
    assert house.complaints() == ["cli/__init__:1: rich is imported at every start (cli/__init__ < cli/main)"]


def test_a_circle_of_modules_is_told() -> None:
    house = House(
        {
            "tree/walk": "from lafscli.tree import copy",
            "tree/copy": "def f():\n    from lafscli.tree.directory import load",
            "tree/directory": "import lafscli.tree.walk",
        }
    )
    assert len(house.complaints()) == 1
    assert "imports in a circle: tree/copy > tree/directory > tree/walk > tree/copy" in house.complaints()[0]
