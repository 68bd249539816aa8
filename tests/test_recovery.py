"""The sealed kit: its bytes, its bounds, its passphrase; kits on a server; what a home remembers (CLI.md §3)."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.config import kits as facts
from lafscli.config.home import Home, write_atomically
from lafscli.config.settings import Config
from lafscli.errors import DamagedKit, FileError, LafsError, ServerError, UsageError, WrongPassphrase
from lafscli.primitives.encoding import netstring
from lafscli.primitives.hashes import tagged_hash
from lafscli.recovery import sealed
from lafscli.recovery.kit import Kit, Login
from lafscli.recovery.sealed import Cost, SealedKit, prepared, seal
from lafscli.storage import kits
from lafscli.storage.local import LocalFiles
from lafscli.storage.store import FileRange, Remove
from tests.test_fuzz import KIT

CHEAP = Cost(1, sealed.LEAST_KIBIBYTES)
CONTENT = KIT.serialise()
WORD = prepared("correct horse")


@pytest.fixture(scope="module")
def data() -> bytes:
    return seal(CONTENT, WORD, os.urandom, cost=CHEAP).serialise()


def _open(data: bytes, word: bytes = WORD) -> bytes:
    return SealedKit.parse(data).open(word)


def _checked(data: bytes) -> bytes:
    """The same with the check of its bytes made anew, as somebody would who changes it with care."""
    return data[:-32] + tagged_hash(b"lafs_recovery_kit_v1", data[:-32])


def _with_cost(data: bytes, passes: int, kibibytes: int) -> bytes:
    return _checked(data[:20] + struct.pack(">II", passes, kibibytes) + data[28:])


# ---- sealed


def test_what_was_sealed_opens(data: bytes) -> None:
    assert _open(data) == CONTENT
    assert Kit.parse(CONTENT) == KIT
    assert data.startswith(b"lafs recovery kit\n\x01\x01" + struct.pack(">II", 1, 8))
    again = seal(CONTENT, WORD, os.urandom, cost=CHEAP).serialise()
    assert (again[28:44], again[44:68]) != (data[28:44], data[44:68])  # salt and nonce are new each time
    assert CONTENT[:40] not in data


def test_the_default_is_not_cheap() -> None:
    assert (sealed.COST.passes, sealed.COST.kibibytes) == (4, 256 * 1024)


def test_every_changed_byte_is_noticed(data: bytes) -> None:
    """By the check at its end, before anything is computed; with a check that fits, by the seal."""
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises((DamagedKit, UsageError)) as refused:
                SealedKit.parse(changed)
            assert "recovery kit" in refused.value.message
    for at in range(len(data) - 32):
        for bit in (0x01, 0x80):
            changed = _checked(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            with pytest.raises((DamagedKit, UsageError)):
                _open(changed)


def test_every_cut_is_noticed(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises((DamagedKit, UsageError)):
            SealedKit.parse(data[:length])
        if length > 32:
            with pytest.raises((DamagedKit, UsageError)):
                _open(_checked(data[:length]))
    for more in (b"\0", data):
        with pytest.raises(DamagedKit):
            SealedKit.parse(data + more)


def test_a_header_that_was_not_sealed_is_noticed(data: bytes) -> None:
    """Also by who knows the key of the box."""
    kit = SealedKit.parse(data)
    other = seal(CONTENT, WORD, lambda count: bytes(count), cost=Cost(2, 8))
    key = sealed.ciphers.stretch(WORD, kit.salt, passes=1, kibibytes=8)
    text = sealed.ciphers.unseal(
        sealed.ciphers.stretch(WORD, other.salt, passes=2, kibibytes=8), other.nonce, other.box
    )
    assert text is not None
    forged = SealedKit(kit.cost, kit.salt, kit.nonce, sealed.ciphers.seal(key, kit.nonce, text))
    with pytest.raises(DamagedKit, match="header"):
        forged.open(WORD)


@pytest.mark.parametrize(
    ("passes", "kibibytes"),
    [(0, 8), (17, 8), (2**32 - 1, 8), (1, 0), (1, 7), (1, 2**20 + 1), (16, 2**31), (2**32 - 1, 2**32 - 1)],
)
def test_a_hostile_kit_takes_no_gigabytes_or_hours(data: bytes, passes: int, kibibytes: int) -> None:
    with pytest.raises(UsageError, match=f"{passes} passes over {kibibytes} KiB"):
        SealedKit.parse(_with_cost(data, passes, kibibytes))


def test_the_bounds_can_be_opened(data: bytes) -> None:
    assert SealedKit.parse(_with_cost(data, 16, 2**20)).cost == Cost(16, 2**20)
    assert _open(seal(CONTENT, WORD, os.urandom, cost=Cost(16, 8)).serialise()) == CONTENT


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the address space is not bounded")
def test_too_little_memory_is_said() -> None:
    """In a process of its own, for its address space stays bounded."""
    code = (
        "import os, resource\n"
        "from lafscli.recovery import sealed\n"
        "import nacl.secret, nacl.pwhash\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"
        "sealed.seal(b'', b'x', os.urandom, cost=sealed.Cost(1, 1 << 20))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "LafsError: there is not enough memory for the passphrase: it takes 1024 MiB" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_what_is_no_kit() -> None:
    for junk, said in ((b"", "nothing in it"), (b"lafs-grid = 1\n", "not a recovery kit"), (b"lafs", "cut short")):
        with pytest.raises((DamagedKit, UsageError), match=said):
            SealedKit.parse(junk)
    newer = b"lafs recovery kit\n\x02" + bytes(200)
    with pytest.raises(UsageError, match="version 2"):
        SealedKit.parse(newer)


# ---- the passphrase


def test_a_wrong_passphrase_is_told_and_not_shown(data: bytes) -> None:
    with pytest.raises(WrongPassphrase) as refused:
        _open(data, prepared("correct horse "))
    assert refused.value.exit_code == 2
    assert "horse" not in str(vars(refused.value))


def test_every_keyboard_gives_the_same_passphrase() -> None:
    word = "Żółć passt 鍵 🔑"
    forms = {prepared(unicodedata.normalize(form, word)) for form in ("NFC", "NFD")}
    assert forms == {prepared(word.encode())} == {unicodedata.normalize("NFC", word).encode()}
    assert prepared(b"caf\xe9") == b"caf\xe9"  # bytes of another encoding stay as they are
    assert prepared(" a b ") == b" a b "


@pytest.mark.parametrize("word", ["", "   ", b"\t", "x" * 4097, b"\xff" * 5000])
def test_an_empty_passphrase_and_a_huge_one_are_refused(word: str | bytes) -> None:
    with pytest.raises(UsageError):
        prepared(word)


# ---- what is in it


def test_a_kit_shows_no_secret() -> None:
    for shown in (repr(KIT), str(KIT)):
        for secret in (KIT.convergence, KIT.lease_secret, KIT.aliases, KIT.pins):
            assert repr(secret) not in shown
            assert secret.decode() not in shown


def test_parts_of_a_later_version_are_skipped_and_missing_ones_told() -> None:
    assert Kit.parse(CONTENT + netstring(b"later") + netstring(b"more")) == KIT
    without = CONTENT.replace(netstring(b"pins") + netstring(KIT.pins), b"")
    with pytest.raises(DamagedKit, match="no pins"):
        Kit.parse(without)
    with pytest.raises(LafsError, match="cut short"):
        Kit.parse(CONTENT[:-1])
    with pytest.raises(DamagedKit, match="when it was made"):
        Kit.parse(CONTENT.replace(netstring(b"1700000000"), netstring(b"-1")))


def test_a_kit_sets_no_programs_and_no_files_of_a_machine() -> None:
    grid = KIT.grid.serialise().replace('timeout = "9s"', 'ssh-command = "/bin/evil"')
    made = Kit.parse(CONTENT + netstring(b"grid") + netstring(grid.encode()))
    [record] = made.grid.servers.values()
    assert record.options == {}
    settings = 'log-file = "/etc/passwd"\ndurability = "none"\n[logins]\nnas = 3\n'
    made = Kit.parse(CONTENT + netstring(b"settings") + netstring(settings.encode()))
    assert made.settings == {"durability": "none"}
    assert made.logins == {"nas": Login()}


# ---- on a server


def _server(folder: Path) -> LocalFiles:
    for name in ("shares", "staging"):
        (folder / name).mkdir(parents=True)
    return LocalFiles(folder, name="nas")


HOME, OTHER = "a" * 16, "b" * 16


def _leave(files: LocalFiles, home: str, data: bytes) -> kits.Found:
    return kits.leave_kit(files, home, data, os.urandom, sync=True)


def test_kits_of_two_homes_do_not_meet_and_old_ones_go(tmp_path: Path) -> None:
    files = _server(tmp_path)
    assert kits.kits(files) == []
    for number in range(1, 9):
        assert _leave(files, HOME, b"ours %d" % number).number == number
    assert _leave(files, OTHER, b"theirs").name == f"{OTHER}.1"
    names = sorted(path.name for path in (tmp_path / "recovery").iterdir())
    assert names == [*(f"{HOME}.{number}.kit" for number in range(4, 9)), f"{OTHER}.1.kit"]
    found = kits.kits(files)
    assert [(kit.home, kit.number) for kit in found] == [*((HOME, n) for n in range(8, 3, -1)), (OTHER, 1)]
    assert kits.fetch_kit(files, found[0]) == b"ours 8"
    assert list((tmp_path / "staging").iterdir()) == []
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "recovery").iterdir()} == {0o600}


def test_names_that_no_lafs_gave_are_left_alone(tmp_path: Path) -> None:
    files = _server(tmp_path)
    (tmp_path / "recovery" / f"{HOME}.7.kit").mkdir(parents=True)
    for name in ("notes", f"{HOME}.0.kit", f"{HOME}.01.kit", f"{HOME.upper()}.1.kit", f"{HOME}.1.kit.bak", ".kit"):
        (tmp_path / "recovery" / name).write_bytes(b"x")
    assert kits.kits(files) == []
    before = sorted(tmp_path.rglob("*"))
    _leave(files, HOME, b"kit")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / f"recovery/{HOME}.1.kit"])


def test_a_number_that_somebody_took_meanwhile_is_passed_over(tmp_path: Path) -> None:
    class Racing(LocalFiles):
        """Another process of the home comes first, once."""

        def create_many(self, files, *, sync):  # type: ignore[no-untyped-def]
            rival = tmp_path / f"recovery/{HOME}.1.kit"
            if not rival.exists():
                rival.write_bytes(b"rival")
            return super().create_many(files, sync=sync)

    _server(tmp_path)
    left = kits.leave_kit(Racing(tmp_path, name="nas"), HOME, b"mine", os.urandom, sync=False)
    assert left.number == 2
    assert (tmp_path / f"recovery/{HOME}.1.kit").read_bytes() == b"rival"
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_server_that_refuses_is_told(tmp_path: Path) -> None:
    files = _server(tmp_path)
    (tmp_path / "recovery").write_bytes(b"a file")
    with pytest.raises(FileError):
        _leave(files, HOME, b"kit")
    files.do([Remove("recovery")])
    (tmp_path / "staging").rmdir()
    with pytest.raises(FileError):
        _leave(files, HOME, b"kit")


def test_a_server_that_does_not_keep_what_it_takes_is_told(tmp_path: Path) -> None:
    class Forgetful(LocalFiles):
        def read(self, wanted):  # type: ignore[no-untyped-def]
            return super().read([FileRange(each.path, 0, each.length - 1) for each in wanted])

    _server(tmp_path)
    with pytest.raises(ServerError, match="does not stand there"):
        kits.leave_kit(Forgetful(tmp_path, name="nas"), HOME, b"mine", os.urandom, sync=False)


# ---- what a home remembers

CAP = "URI:LIT:nbuqu"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "home").mkdir()
    return Home.find(str(tmp_path / "home"))


def _config(home: Home, *names: str) -> Config:
    record = KIT.grid.servers["nas"]
    return Config.of(home, {"servers": {name: replace(record, name=name).table() for name in names}})


def test_a_kit_is_older_than_an_alias_or_a_server_that_it_has_not(home: Home) -> None:
    aliases, none, nas = home.path / "aliases", _config(home), _config(home, "nas")
    assert not facts.kit_is_older(nas)
    aliases.write_bytes(b"# none\n")
    assert not facts.kit_is_older(nas)  # nothing would be lost
    aliases.write_bytes(f"# mine\na: {CAP}\n".encode())
    assert facts.kit_is_older(none)
    assert facts.last_kit(home) is None
    facts.remember_kit(none, aliases.read_bytes(), 1_700_000_000.5)
    assert not facts.kit_is_older(none)
    assert facts.kit_is_older(nas)
    assert facts.last_kit(home) == 1_700_000_000
    facts.remember_kit(nas, aliases.read_bytes(), 1_600_000_000)
    assert not facts.kit_is_older(nas)
    assert not facts.kit_is_older(_config(home, "renamed"))  # the same server
    assert not facts.kit_is_older(none)
    aliases.write_bytes(f"a: {CAP}\nb: {CAP}\n".encode())
    assert facts.kit_is_older(nas)
    aliases.write_bytes(f"a:  {CAP}\n".encode())  # removed again, and spelled otherwise
    assert not facts.kit_is_older(nas)
    aliases.write_bytes(b"a: URI:LIT:nbuqm\n")  # the same name for something else
    assert facts.kit_is_older(nas)
    record = home.state / "recovery-kit"
    assert b"URI" not in record.read_bytes()
    assert record.stat().st_mode & 0o777 == 0o600
    for junk in (b"", b"\xff\n", b"soon\n"):
        record.write_bytes(junk)
        assert facts.kit_is_older(nas)
        assert facts.last_kit(home) is None


def test_a_reminder_is_due_once_a_month(home: Home) -> None:
    now, day, config = 1_700_000_000.0, 86400, _config(home)
    assert not facts.reminder_is_due(config, now)
    (home.path / "aliases").write_bytes(f"a: {CAP}\n".encode())
    assert facts.reminder_is_due(config, now)
    facts.reminded(home, now)
    assert not facts.reminder_is_due(config, now + 29 * day)
    assert facts.reminder_is_due(config, now + 30 * day)
    assert facts.reminder_is_due(config, now - day)  # a clock set back keeps nothing quiet
    facts.remember_kit(config, (home.path / "aliases").read_bytes(), now)
    assert not facts.reminder_is_due(config, now + 90 * day)


def test_gc_is_held(home: Home) -> None:
    assert not facts.gc_is_held(home)
    facts.hold_gc(home)
    assert facts.gc_is_held(home)
    assert (home.state / "gc-not-adopted").read_bytes() == b""
    assert (home.state / "gc-not-adopted").stat().st_mode & 0o777 == 0o600


# ---- a file that is never replaced


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_there_stays(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are no hard links, as on memory sticks."""
    if not links:

        def no_links(*_: object, **__: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "kit"
    write_atomically(path, b"first", replace=False)
    with pytest.raises(LafsError, match="exists"):
        write_atomically(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    write_atomically(path, b"third")
    assert path.read_bytes() == b"third"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LafsError, match="exists"):
        write_atomically(tmp_path / "dangling", b"x", replace=False)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dangling", "kit"]
