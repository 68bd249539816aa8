"""One of ten servers means no good: the others go on, put is happy on nine, get and check are right, all in time.

`test_sftp.py` has each answer that breaks the protocol at the SFTP client itself; here are whole puts and gets, and
what a `server add` says of such a server.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lafscli.formats.caps import ChkCap
from lafscli.health.check import Checking, check
from lafscli.immutable.download import download
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import Uploaded, upload
from lafscli.primitives.encoding import b32decode
from lafscli.storage import grid as grid_module
from lafscli.storage import packets
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import Progress
from tests import hostile_sftp
from tests.grids import LocalGrid, content, writing
from tests.hostile_sftp import Honest, TrickStream, after, make_command
from tests.lafs_process import Lafs

T = TypeVar("T")

TIMEOUT = 0.5
PATIENT = 30.0
"""The same where every question is answered: nothing waits for it, and it all takes no longer."""
MARGIN = 3.0
"""Seconds that a busy machine may take for the work itself."""
SIZE = 600_000
EVIL = 4


class Notes(Progress):
    """What was said on the way."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)


def takes_a_share(trick: type[Honest]) -> bool:
    """Whether it takes the first share like an honest one: it plays its trick on who lists or reads shares."""
    lists = getattr(trick, "kind", None) == packets.READDIR
    return lists or trick in (hostile_sftp.DripReads, hostile_sftp.SilentShares)


class Meeting:
    """A put, the same put again, a small file, a get and a check, with nine folders and one server behind SFTP."""

    def __init__(self, folder: Path, trick: type[Honest], timeout: float = TIMEOUT) -> None:
        self.local = LocalGrid(folder)
        self.trick = trick
        self.timeout = timeout
        self.seconds: dict[str, float] = {}
        notes = Notes()
        data = content(SIZE, 5)
        first = PATIENT if takes_a_share(trick) else timeout
        self.put = self._run("put", lambda grid: upload(grid, data, writing(), notes), first)
        self.again = self._run("again", lambda grid: upload(grid, data, writing(), notes))
        [self.small] = self._run("small", lambda grid: upload_many(grid, [content(5000)], writing(), notes))
        assert isinstance(self.put.cap, ChkCap)
        cap = self.put.cap
        out = bytearray()
        self.fetched = self._run("get", lambda grid: download(grid, cap, out.extend, progress=notes))
        self.got = bytes(out)
        checking = Checking(7, os.urandom, verify=True)
        self.report = self._run("check", lambda grid: check(grid, cap.verify_cap(), checking))
        reasons = [bad.reason for bad in self.report.corrupt] + [each.reason for each in self.report.unreachable]
        self.said = [*notes.said, *self.fetched.silent.values(), *reasons]

    def _run(self, what: str, act: Callable[[Grid], T], timeout: float | None = None) -> T:
        timeout = timeout or self.timeout
        root, node = str(self.local.root(EVIL)), self.local.servers[EVIL]
        files = SftpFiles(
            lambda: TrickStream(self.trick), root, name=node.name, timeout=timeout, connect_timeout=timeout
        )
        stores = list(self.local.grid().stores)
        stores[EVIL] = FolderStore(node, files, random_bytes=os.urandom)
        began = time.monotonic()
        with Grid(stores) as grid:
            result = act(grid)
        self.seconds[what] = time.monotonic() - began
        return result

    def problems(self) -> Iterator[str]:
        """What should not be."""
        for uploaded in (self.put, self.again, self.small):
            if not isinstance(uploaded, Uploaded) or uploaded.happiness < 9:
                yield f"not happy on nine: {uploaded}"
        if self.again.cap != self.put.cap:
            yield "another cap"
        if self.got != content(SIZE, 5):
            yield "wrong bytes"
        if len({path.name for path in self._honest("shares/*/*/*")}) < 9:
            yield "fewer than nine shares on the nine honest servers"
        if left := self._honest("staging/*") + self._honest("locks/*"):
            yield f"left over: {left}"
        # it may have the tenth share, if it was too slow to commit it at first, and then nobody can tell
        open_still = [each.server for each in self.report.unreachable] == [self.local.servers[EVIL].name]
        states = ("healthy", "degraded", *(("unknown",) if open_still else ()))
        if self.report.state not in states or self.report.good_shares < 9:
            yield f"check: {self.report}"
        if late := {what: took for what, took in self.seconds.items() if took > 2 * TIMEOUT + MARGIN}:
            yield f"took too long: {late}"
        if bad := [text for text in self.said if not text.isprintable()]:
            yield f"said unescaped: {bad}"

    def _honest(self, pattern: str) -> list[Path]:
        return [path for i in range(10) if i != EVIL for path in self.local.root(i).glob(pattern)]


def meet_all(folder: Path, tricks: Sequence[type[Honest]], timeout: float = TIMEOUT) -> dict[str, Meeting]:
    """Play each trick, several at a time, for most of them wait; asserts that nothing is wrong with any."""

    def meet(trick: type[Honest]) -> Meeting | Exception:
        try:
            return Meeting(folder / trick.__name__, trick, timeout)
        except Exception as error:
            return error

    with ThreadPoolExecutor(15) as pool:
        met = dict(zip([trick.__name__ for trick in tricks], pool.map(meet, tricks), strict=True))
    wrong: dict[str, Any] = {}
    good: dict[str, Meeting] = {}
    for name, meeting in met.items():
        if isinstance(meeting, Exception):
            wrong[name] = repr(meeting)
            continue
        good[name] = meeting
        meeting.local.close()
        if problems := list(meeting.problems()):
            wrong[name] = problems
    assert wrong == {}
    return good


REQUESTS = [
    *(packets.INIT, packets.OPEN, packets.CLOSE, packets.READ, packets.WRITE, packets.LSTAT, packets.FSTAT),
    *(packets.SETSTAT, packets.OPENDIR, packets.READDIR, packets.REMOVE, packets.MKDIR, packets.RMDIR),
    *(packets.RENAME, packets.EXTENDED),
]


def test_the_real_server_behind_the_one_that_plays_tricks(tmp_path: Path) -> None:
    [meeting] = meet_all(tmp_path, [Honest], PATIENT).values()
    assert meeting.put.happiness == meeting.report.good_shares == 10
    assert meeting.again.preexisting == 10
    assert meeting.said == []


@pytest.mark.slow
def test_silence_after_each_type_of_request(tmp_path: Path) -> None:
    """Not one answer to this type, while others are answered; or to anything once it was asked."""
    met = meet_all(
        tmp_path, [after(trick, kind) for trick in (hostile_sftp.Silent, hostile_sftp.Mute) for kind in REQUESTS]
    )
    for kind in (packets.INIT, packets.OPEN, packets.WRITE, packets.CLOSE, packets.RENAME):
        assert met[f"Silent{kind}"].put.happiness == 9


BROKEN = [
    *(hostile_sftp.LongPacket, hostile_sftp.LongestPacket, hostile_sftp.WrongIds, hostile_sftp.Swapped),
    *(hostile_sftp.Twice, hostile_sftp.MoreData, hostile_sftp.Junk, hostile_sftp.HangUp, hostile_sftp.Refuse),
    *(after(hostile_sftp.LongPacket, kind) for kind in (packets.OPEN, packets.WRITE, packets.READDIR)),
]


def test_answers_that_break_the_protocol(tmp_path: Path) -> None:
    for name, meeting in meet_all(tmp_path, BROKEN).items():
        assert (meeting.put.happiness == 10) == takes_a_share(meeting.trick) or name == "Twice", name
        if name != "Twice":  # which depends on which of the two answers came first
            assert meeting.again.happiness == 9, name


ENDLESS = [
    *(hostile_sftp.EndlessNames, hostile_sftp.LongNames, hostile_sftp.LongishNames, hostile_sftp.EndlessToml),
    *(hostile_sftp.NestedToml, hostile_sftp.DottedToml, hostile_sftp.Drip, hostile_sftp.DripReads),
    *(hostile_sftp.Immense, hostile_sftp.SilentShares),
]


def test_answers_without_end(tmp_path: Path) -> None:
    """Folders, names, files, waiting: the second put does without that server, even if it took a share in the first."""
    for name, meeting in meet_all(tmp_path, ENDLESS).items():
        assert (meeting.put.happiness == 10) == takes_a_share(meeting.trick), name
        assert meeting.again.happiness == 9, name


def test_lies(tmp_path: Path) -> None:
    """What it says it has is not believed where it is looked at; what can't be known at put is found by check."""
    lies = [
        *(hostile_sftp.BadName, hostile_sftp.NestedName, hostile_sftp.UpName, hostile_sftp.LyingListing),
        *(hostile_sftp.DroppedWrites, hostile_sftp.ZeroedWrites, hostile_sftp.NoRename, hostile_sftp.LeaseBomb),
        hostile_sftp.RottenShares,
    ]
    met = meet_all(tmp_path, lies, PATIENT)
    for name in ("BadName", "NestedName", "LyingListing", "DroppedWrites"):
        assert met[name].again.happiness == 9, name
    assert met["DroppedWrites"].put.happiness == 9
    for name in ("ZeroedWrites", "RottenShares"):
        assert met[name].put.placement.keys() == set(range(10))
        assert any("is corrupt" in text for text in met[name].said), name
        assert {bad.server for bad in met[name].report.corrupt} == {"s4"}, name
    assert len(met["NoRename"].report.shares) == 9


def test_all_but_three_mean_no_good(tmp_path: Path) -> None:
    """The bytes are right as long as k servers are honest, whatever the others do."""
    local = LocalGrid(tmp_path)
    data = content(SIZE)
    with local.grid() as grid:
        cap = upload(grid, data, writing()).cap
    seven: list[type[Honest]] = [
        *(hostile_sftp.RottenShares, hostile_sftp.SilentShares, hostile_sftp.LyingListing, hostile_sftp.DripReads),
        *(hostile_sftp.MoreData, hostile_sftp.Swapped, hostile_sftp.LeaseBomb),
    ]
    stores = list(local.grid().stores)
    for index, trick in enumerate(seven):
        files = SftpFiles(partial(TrickStream, trick), str(local.root(index)), name=f"s{index}", timeout=TIMEOUT)
        stores[index] = FolderStore(local.servers[index], files, random_bytes=os.urandom)
    out = bytearray()
    assert isinstance(cap, ChkCap)
    began = time.monotonic()
    with Grid(stores) as grid:
        download(grid, cap, out.extend)
    assert out == data
    assert time.monotonic() - began < 2 * TIMEOUT + MARGIN
    local.close()


@pytest.mark.parametrize("kind", [packets.WRITE, packets.OPENDIR, packets.INIT])
def test_many_files_do_not_wait_for_a_silent_server_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """It is waited for, then let rest for as long."""
    monkeypatch.setattr(grid_module, "_RETRY_AFTER", TIMEOUT / 2)
    monkeypatch.setattr(grid_module, "_HUNG_AFTER", TIMEOUT / 2)
    local = LocalGrid(tmp_path)
    stores = list(local.grid().stores)
    trick = after(hostile_sftp.Silent, kind)
    files = SftpFiles(
        partial(TrickStream, trick), str(local.root(EVIL)), name="s4", timeout=TIMEOUT, connect_timeout=TIMEOUT
    )
    stores[EVIL] = FolderStore(local.servers[EVIL], files, random_bytes=os.urandom)
    began = time.monotonic()
    with Grid(stores) as grid:
        done = upload_many(grid, [content(5000, seed) for seed in range(30)], writing())
    assert all(isinstance(each, Uploaded) and each.happiness >= 9 for each in done)
    assert time.monotonic() - began < 4 * TIMEOUT + MARGIN
    local.close()


# ---- the same from the command line, where memory can be measured


class Home:
    """Nine folders of this machine, and a tenth behind an `ssh-command` that plays the trick it is told."""

    def __init__(self, folder: Path) -> None:
        self.lafs = Lafs(folder)
        self.program, self.play = make_command(folder / "evil")
        self.options = [f"--option=ssh-command={self.program}", "--option=timeout=1s", "--option=connect-timeout=1s"]
        self.lafs("init", "--local", code=0)
        self.lafs("server", "remove", "local9", "--force", code=0)
        patient = [option.replace("=1s", "=31s") for option in self.options]
        self.lafs("server", "add", "evil", f"sftp://evil{folder}/evil/root", *patient, code=0)
        self.content = content(2_000_000, 8)
        (folder / "file").write_bytes(self.content)
        stored, self.usual = self.peak("put", "file")
        assert stored["happiness"] == 10
        self.cap = stored["cap"]
        (folder / "cap").write_text(self.cap)
        config = self.lafs.home / "config.toml"
        patient_text = config.read_text()
        assert patient_text.count('"31s"') == 2
        config.write_text(patient_text.replace('"31s"', '"1s"'))

    def peak(self, *arguments: str) -> tuple[dict[str, Any], int]:
        """The JSON that a command answers, and the most memory it took, in KiB.

        It must succeed, or say that a server is silent or a share corrupt.
        """
        measure = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; " + (
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
        )
        done = subprocess.run(
            [self.lafs.program[0], "-c", measure, *self.lafs.program, *arguments, "--json"],
            env=self.lafs.environment(),
            cwd=self.lafs.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, 6, 10), done.stderr
        assert said_well(done.stderr)
        answer, peak = done.stdout.splitlines()
        return json.loads(answer), int(peak) // (1 if os.uname().sysname == "Linux" else 1024)


def said_well(text: str) -> bool:
    return "Traceback" not in text and "internal error" not in text and all(map(str.isprintable, text.splitlines()))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize(
    "trick",
    [
        *("LongestPacket", "EndlessNames", "NestedToml", "LeaseBomb"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("LongNames", "MoreData", "EndlessToml", "Junk", "Refuse")
        ),
    ],
)
def test_put_get_and_check_stay_small(home: Home, trick: str) -> None:
    """The server has a share from a time when it was honest; a share of another server is to be sent again."""
    for path in (home.lafs.home / "grid/local3/shares").glob("*/*/*"):
        path.unlink()
    home.play(trick)
    again, putting = home.peak("put", "file")
    assert again["cap"] == home.cap
    assert again["happiness"] >= 9
    _, fetching = home.peak("get", "@cap", "copy")
    assert (home.lafs.folder / "copy").read_bytes() == home.content
    report, checking = home.peak("check", "@cap", "--verify")
    assert report["good_shares"] >= 9
    assert max(putting, fetching, checking) < home.usual + 60_000, (home.usual, putting, fetching, checking)


@pytest.mark.parametrize(
    ("trick", "said"),
    [
        ("NestedToml", "server.toml can't be used"),
        ("EndlessToml", "longer than 65536 bytes"),
        ("Junk", "broke the SFTP protocol"),
        ("LongPacket", "broke the SFTP protocol"),
        ("MoreData", "broke the SFTP protocol"),
        ("Refuse", "evil\\x1b[2J"),
        ("HangUp", "SFTP ended on the server"),
        ("SlowDrip", "did not answer for 1 s"),
        (f"Silent {packets.INIT}", "did not answer for 1 s"),
        (f"Mute {packets.MKDIR}", "did not answer for 1 s"),
    ],
)
def test_server_add_refuses(home: Home, trick: str, said: str) -> None:
    home.play(trick)
    before = (home.lafs.home / "config.toml").read_bytes()
    began = time.monotonic()
    url = f"sftp://evil{home.lafs.folder}/evil/other"
    done = home.lafs("server", "add", "other", url, *home.options, code=8)
    assert time.monotonic() - began < 2 * 1 + MARGIN
    assert said in done.stderr.decode()
    assert said_well(done.stderr.decode())
    assert (home.lafs.home / "config.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("what", "trick"),
    [
        ("put", f"Mute {packets.WRITE}"),
        ("get", "SilentShares"),
        pytest.param("put", f"Mute {packets.INIT}", marks=pytest.mark.slow),
        pytest.param("put", f"Silent {packets.RENAME}", marks=pytest.mark.slow),
    ],
)
def test_a_server_that_accepts_and_hangs(home: Home, what: str, trick: str) -> None:
    """put and get end within twice the time-out; the start of the program is not the server's fault."""
    data = random.Random(trick).randbytes(2_000_000)
    (home.lafs.folder / "other").write_bytes(data)
    arguments = ["put", "other"]
    if what == "get":
        home.play("Honest")
        (home.lafs.folder / "other.cap").write_bytes(home.lafs("put", "other", code=0).stdout)
        arguments = ["get", "@other.cap", "copy"]
        for number in (0, 1, 2, 3, 5, 6, 7):  # two are left, and the one that hangs
            for path in (home.lafs.home / f"grid/local{number}/shares").glob("*/*/*"):
                path.unlink()
    home.play(trick)
    began = time.monotonic()
    done = home.lafs(*arguments, "--timeout", "3s", code=0 if what == "put" else 6)
    assert time.monotonic() - began < 2 * 3 + 1.0
    assert said_well(done.stderr.decode())
    home.play("Honest")


def test_junk_placed_in_advance_is_not_counted(tmp_path: Path) -> None:
    """Who knows what file will come puts something under its name first, on seven of ten servers."""
    twin, lafs = Lafs(tmp_path / "twin"), Lafs(tmp_path / "client")
    data = random.Random(11).randbytes(500_000)
    for each in (twin, lafs):
        each("init", "--local", code=0)
        (each.folder / "file").write_bytes(data)
    (lafs.home / "convergence").write_bytes((twin.home / "convergence").read_bytes())
    known = twin.json("put", "file")
    si = known["storage_index"]
    assert len(b32decode(si)) == 16
    shares = {path.name: path.read_bytes() for path in (twin.home / "grid").glob(f"*/shares/*/{si}/*")}
    assert len(shares) == 10
    placed: list[Path] = []
    for index in range(7):
        folder = lafs.home / f"grid/local{index}/shares/{si[:2]}/{si}"
        folder.mkdir(parents=True)
        for shnum, share in shares.items():
            spoilt = bytearray(share)
            spoilt[-72 - 10 - index] ^= 1  # in the UEB
            (folder / shnum).write_bytes(spoilt if index % 2 else random.Random(index).randbytes(len(share)))
            placed.append(folder / shnum)
    done = lafs("put", "file", "--json")
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["error"]["kind"] == "NotHappy"
    assert b"corrupt" in done.stderr
    for path in placed:
        if path.parent.parent.parent.parent.name in ("local0", "local1", "local2", "local3"):
            path.unlink()
    done = lafs("put", "file", "--json")
    assert done.returncode == 0, done.stderr
    stored = json.loads(done.stdout)
    assert stored["cap"] == known["cap"]
    assert stored["happiness"] >= 7
    assert not {"local4", "local5", "local6"} & {name for names in stored["placement"].values() for name in names}
    lafs("get", "@-", "copy", input=stored["cap"].encode(), code=0)
    assert (lafs.folder / "copy").read_bytes() == data
