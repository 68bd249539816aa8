"""LocalFiles: the contract, and what only a file system of our own shows."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lafscli.errors import FileError, FileExists, OutOfSpace
from lafscli.storage.local import LocalFiles
from lafscli.storage.store import FileRange, Mkdir, NewFile, Rename, Replace, Rmdir
from tests.files_contract import FilesContract


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def files(root: Path) -> Iterator[LocalFiles]:
    made = LocalFiles(root, name="disk", sync_folders=True)
    yield made
    made.close()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class TestLocalFiles(FilesContract):
    pass


def test_what_exists_is_named_so(files: LocalFiles, root: Path) -> None:
    (root / "a").mkdir()
    (root / "a/x").touch()
    (root / "b").touch()
    answers = files.do([Mkdir("a"), Rename("b", "a/x"), Rename("a", "b"), Rmdir("a")])
    assert [type(answer) for answer in answers] == [FileExists] * 4
    assert {str(answer) for answer in answers[:1]} == {"a: file exists"}
    assert {answer.server for answer in answers if isinstance(answer, FileError)} == {"disk"}


def test_writing_follows_no_link(files: LocalFiles, root: Path) -> None:
    (root / "target").write_bytes(b"target")
    (root / "link").symlink_to("target")
    with pytest.raises(FileError):
        files.open_existing("link")
    assert files.do([Rename("link", "moved")]) == [None]
    assert (root / "moved").is_symlink()
    assert (root / "target").read_bytes() == b"target"


def test_a_pipe_does_not_hold_us_up(files: LocalFiles, root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert files.read([FileRange("pipe", 0, 5)]).finish() is not None
    with pytest.raises(FileError):
        files.open_existing("pipe")


def test_a_full_disk(files: LocalFiles, root: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk in `write`; /dev/full is one."""
    (root / "full").symlink_to("/dev")
    writer = files.open_existing("full/full")
    with pytest.raises(OutOfSpace) as caught:
        writer.write(b"x" * 100)
    assert str(caught.value) == "full/full: no space left on device"
    calls: list[Callable[[], None]] = [lambda: writer.write(b"y"), writer.flush, lambda: writer.close(sync=True)]
    for call in calls:
        with pytest.raises(OutOfSpace):
            call()
    writer.abandon()


def test_one_file_too_large_spoils_no_other_and_leaks_nothing(files: LocalFiles, root: Path) -> None:
    before = open_descriptors()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    try:
        outcomes = files.create_many(
            [NewFile("a", [b"a" * 900]), NewFile("b", [b"b" * 1100]), NewFile("c", [b"c"])], sync=True
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert [type(outcome) for outcome in outcomes] == [type(None), FileError, type(None)]
    assert os.strerror(errno.EFBIG).lower() in str(outcomes[1])
    assert (root / "c").read_bytes() == b"c"
    assert open_descriptors() == before


def test_descriptors_are_bounded_and_given_back(files: LocalFiles, root: Path) -> None:
    before = open_descriptors()
    for number in range(200):
        (root / str(number)).write_bytes(b"%d" % number)
    answers = files.read([FileRange(str(number), 0, 9, keep=True) for number in range(200)]).finish()
    assert answers == [b"%d" % number for number in range(200)]
    assert open_descriptors() <= before + 64
    files.do([Replace("1", "2")])
    files.close()
    assert open_descriptors() == before
