"""Who may log in, the key that the server shows, and what it tells of itself."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from lafscli.errors import LafsError
from lafscli.server import hostkey, keys
from lafscli.server.keys import KeyRefused
from lafscli.server.record import Record


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def line(kind: str = "ssh-ed25519", *parts: bytes) -> str:
    """A public key as text; its numbers are made up."""
    return f"{kind} {b64encode(b''.join(map(string, (kind.encode(), *(parts or (b'p' * 32,)))))).decode()}"


ED = line()
RSA = line("ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * 256)
CURVE = line("ecdsa-sha2-nistp256", b"nistp256", b"\4" * 65)


@pytest.mark.parametrize("good", [ED, RSA, CURVE])
def test_kinds_of_keys(good: str) -> None:
    key = keys.parse(f"{good} me@here")
    assert (key.comment, key.root, key.append_only, key.read_only) == ("me@here", None, False, False)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_the_fingerprint_is_the_one_of_ssh_keygen(kind: str, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(tmp_path / "k")], check=True)
    shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "k")], capture_output=True, text=True, check=True)
    assert keys.parse((tmp_path / "k.pub").read_text().strip()).fingerprint == shown.stdout.split()[1]


def test_options_of_ours() -> None:
    key = keys.parse(f'lafs-root="/srv/with space, and \\"quotes\\"",LAFS-append-only,restrict,no-pty {ED} c d')
    assert (key.root, key.append_only, key.read_only) == ('/srv/with space, and "quotes"', True, False)
    assert key.comment == "c d"
    assert keys.parse(f"lafs-read-only {ED}").read_only


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (f'command="lafs serve" {ED}', "'command' is not known"),
        (f'from="10.0.0.0/8" {ED}', "'from' is not known"),
        (f"lafs-readonly {ED}", "'lafs-readonly' is not known"),
        (f"cert-authority {ED}", "not known"),
        (f"lafs-root {ED}", "takes a value in quotes"),
        (f'lafs-read-only="yes" {ED}', "takes no value"),
        (f'lafs-root="" {ED}', "names no folder"),
        (f'lafs-root="/a",lafs-root="/b" {ED}', "twice"),
        (f'lafs-root="/a {ED}', "can't be read"),
        (f"lafs-root=/a {ED}", "can't be read"),
        (f"lafs-read-only,, {ED}", "can't be read"),
        (line("ssh-dss", b"1", b"2", b"3", b"4"), "no type of key"),
        (line("sk-ssh-ed25519@openssh.com", b"p" * 32, b"ssh:"), "security device"),
        (line("ssh-ed25519-cert-v01@openssh.com"), "no type of key"),
        ("hello", "can't be read"),
        ("ssh-ed25519", "damaged"),
        ("ssh-ed25519 AAAA!", "damaged"),
        (ED[:-4], "damaged"),
        (line("ssh-ed25519", b"p" * 31), "damaged"),
        (line("ssh-ed25519", b"p" * 32, b""), "damaged"),
        (ED.replace("ssh-ed25519", "ssh-rsa"), "damaged"),
        (line("ssh-rsa", b"\1\0\1", b"\xff" * 128), "2048"),
        (line("ecdsa-sha2-nistp256", b"nistp384", b"\4" * 65), "damaged"),
    ],
)
def test_a_line_that_lets_nobody_in(bad: str, why: str) -> None:
    with pytest.raises(KeyRefused, match=why):
        keys.parse(bad)


def test_a_file_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f'# mine\n\n  {ED} one\r\nfrom="x" {RSA}\n{ED} again\nlafs-read-only {CURVE}\n\xff\n')
    path.chmod(0o644)
    told: list[str] = []
    found = keys.load(path, told.append)
    assert [key.comment for key in found.values()] == ["one", ""]
    assert [text.partition(": ")[0] for text in told] == [f"{path}:{number}" for number in (4, 5, 7)]
    assert "further up" in told[1]


def test_keys_that_others_may_write_are_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(ED)
    path.chmod(0o664)
    with pytest.raises(LafsError, match="others may write"):
        keys.load(path, print)
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(LafsError, match="others may write"):
        keys.load(path, print)
    tmp_path.chmod(0o700)
    assert keys.load(path, print)
    path.write_bytes(b"#" * (keys.LARGEST + 1))
    with pytest.raises(LafsError, match="more than"):
        keys.load(path, print)
    path.unlink()
    with pytest.raises(LafsError, match="No such file"):
        keys.load(path, print)
    os.mkfifo(path, 0o600)
    with pytest.raises(LafsError, match="no file"):
        keys.load(path, print)


# ---- the host key


def test_a_host_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "serve" / "host_key"
    made, new = hostkey.load_or_make(path)
    assert new
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    before = path.read_bytes()
    again, new = hostkey.load_or_make(path)
    assert (again, new, path.read_bytes()) == (made, False, before)
    assert os.listdir(path.parent) == ["host_key"]
    shown = subprocess.run(["ssh-keygen", "-lf", str(path)], capture_output=True, text=True, check=True).stdout
    assert made.fingerprint == shown.split()[1]
    public = subprocess.run(["ssh-keygen", "-yf", str(path)], capture_output=True, text=True, check=True).stdout
    assert public.split()[:2] == made.public_line.split()
    assert "PRIVATE" not in repr(made)


def test_a_host_key_of_ssh_keygen_is_taken_and_another_is_refused(tmp_path: Path) -> None:
    for kind, phrase in (("ed25519", ""), ("ed25519", "secret"), ("ecdsa", "")):
        path = tmp_path / f"{kind}{phrase}"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-f", str(path)], check=True)
    assert not hostkey.load_or_make(tmp_path / "ed25519")[1]
    for name in ("ed25519secret", "ecdsa", "ed25519.pub"):
        (tmp_path / name).chmod(0o600)
        with pytest.raises(LafsError, match="no host key that can be used"):
            hostkey.load_or_make(tmp_path / name)


def test_a_host_key_that_is_not_right_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "host_key"
    hostkey.load_or_make(path)
    path.chmod(0o640)
    with pytest.raises(LafsError, match="others may read"):
        hostkey.load_or_make(path)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(LafsError, match="cannot read"):
        hostkey.load_or_make(path)
    assert path.is_symlink()
    path.unlink()
    path.mkdir()
    with pytest.raises(LafsError, match="host key"):
        hostkey.load_or_make(path)
    with pytest.raises(LafsError, match="cannot make"):
        hostkey.load_or_make(Path("/dev/null/host_key"))


# ---- the log


def test_a_line_has_all_that_is_known_and_no_cap(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    for record in (Record(path, now=lambda: 1.25), Record(now=lambda: 1.25), Record(silent=True)):
        note = record.about(peer="192.0.2.1:5", key="SHA256:abc", connection=7)
        note("logged in as 'URI:CHK:secret:more:3:10:5'\n\x1b[2J")
    assert json.loads(path.read_text()) == {
        "time": "1970-01-01T00:00:01.250Z",
        "pid": os.getpid(),
        "event": "serve",
        "peer": "192.0.2.1:5",
        "key": "SHA256:abc",
        "connection": 7,
        "action": "logged in as 'URI:...'\\n\\x1b[2J",
    }
    said = capfd.readouterr().err
    assert said == "lafs: 1970-01-01T00:00:01.250Z 192.0.2.1:5 SHA256:abc #7 logged in as 'URI:...'\\n\\x1b[2J\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    record = Record(tmp_path / "log")
    record.note("one")
    (tmp_path / "log").rename(tmp_path / "log.1")
    record.note("two")
    assert [json.loads((tmp_path / name).read_text())["action"] for name in ("log.1", "log")] == ["one", "two"]
    Record(tmp_path / "no" / "such" / "folder").note("lost, and nobody dies of it")
