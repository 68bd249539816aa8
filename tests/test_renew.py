"""Leases over real folders: renewed where ours is there, added where it is not, failures named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.errors import LafsError
from lafscli.formats.caps import ChkCap, ChkVerifyCap
from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE, ImmutableContainer, LeaseRecord
from lafscli.health.check import Checking, check, check_many
from lafscli.health.renew import Renewed, renew_many
from lafscli.health.report import Leases
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import LEASE_SECONDS, Writing
from tests.grids import LocalGrid, content, writing

NOW = 1_800_000_000
LATER = replace(writing(), now=NOW + 1000)
OTHER = replace(writing(), now=NOW + 500, lease_secret=b"o" * 32)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    made = LocalGrid(tmp_path / "grid")
    yield made
    made.close()


@pytest.fixture
def caps(local: LocalGrid) -> list[ChkVerifyCap]:
    with local.grid() as grid:
        done = upload_many(grid, [content(1000, i) for i in range(4)], writing())
    assert not any(isinstance(each, LafsError) for each in done)
    return [each.cap.verify_cap() for each in done if not isinstance(each, LafsError) and isinstance(each.cap, ChkCap)]


def renew(local: LocalGrid, caps: list[ChkVerifyCap], who: Writing = LATER) -> list[Renewed]:
    with local.grid() as grid:
        return list(renew_many(grid, caps, who.lease))


def records(path: Path) -> list[LeaseRecord]:
    data = path.read_bytes()
    found = ImmutableContainer.parse_header(data[:32], len(data))
    return found.parse_leases(data[found.lease_offset :])


def test_leases_are_renewed_in_place(local: LocalGrid, caps: list[ChkVerifyCap]) -> None:
    sizes = {path: path.stat().st_size for path in local.share_files()}
    assert [done.leases for done in renew(local, caps)] == [Leases(renewed=10)] * 4
    assert {path: path.stat().st_size for path in local.share_files()} == sizes
    for path in sizes:
        assert [record.expiration for record in records(path)] == [NOW + 1000 + LEASE_SECONDS]


def test_a_renewal_never_shortens(local: LocalGrid, caps: list[ChkVerifyCap]) -> None:
    renew(local, caps)
    assert [done.leases for done in renew(local, caps, writing())] == [Leases(renewed=10)] * 4
    assert {record.expiration for path in local.share_files() for record in records(path)} == {
        NOW + 1000 + LEASE_SECONDS
    }


def test_a_lease_is_added_where_none_is_ours(local: LocalGrid, caps: list[ChkVerifyCap]) -> None:
    """The lease of the uploader stays; the share is as good as before."""
    assert [done.leases for done in renew(local, caps[:2], OTHER)] == [Leases(added=10)] * 2
    assert [done.leases for done in renew(local, caps, OTHER)] == [Leases(renewed=10)] * 2 + [Leases(added=10)] * 2
    for path in local.share_files():
        first, second = records(path)
        assert (first.owner, first.expiration) == (0, NOW + LEASE_SECONDS)
        assert (second.owner, second.expiration) == (1, NOW + 500 + LEASE_SECONDS)
    with local.grid() as grid:
        reports = list(check_many(grid, caps, Checking(7, os.urandom, verify=True)))
    assert all(report.healthy for report in reports)


def test_copies_get_their_lease_too(local: LocalGrid, caps: list[ChkVerifyCap]) -> None:
    path = next(path for path in local.share_files() if path.name == "0")
    other = next(i for i in range(10) if not path.is_relative_to(local.root(i)))
    copy = local.root(other) / path.relative_to(path.parents[4] / path.parents[3].name)
    copy.parent.mkdir(parents=True, exist_ok=True)
    data = bytearray(path.read_bytes())
    data[8:12] = bytes(4)
    copy.write_bytes(data[:-LEASE_SIZE])
    done = {each.si: each.leases for each in renew(local, caps)}
    assert sorted(done.values(), key=lambda each: each.added)[-1] == Leases(renewed=10, added=1)
    assert len(records(copy)) == 1


def test_read_only_servers_are_left_alone(local: LocalGrid, caps: list[ChkVerifyCap]) -> None:
    local.servers[2] = replace(local.servers[2], writable=False)
    held = len([path for path in local.share_files() if path.is_relative_to(local.root(2))])
    done = renew(local, caps)
    assert sum(each.leases.renewed for each in done) == 40 - held
    assert not any(each.failures for each in done)


def test_what_fails_is_named_and_the_rest_is_done(local: LocalGrid, caps: list[ChkVerifyCap]) -> None:
    local.dials[1].dead = True
    path = next(path for path in local.share_files() if path.is_relative_to(local.root(4)))
    path.write_bytes(b"\0\0\0\x09" + path.read_bytes()[4:])
    done = renew(local, caps)
    assert [[each.server for each in one.unreachable] for one in done] == [["s1"]] * 4
    failures = [each for one in done for each in one.failures]
    assert [(each.server, "version 9" in each.reason) for each in failures] == [("s4", True)]
    on_dead = len([path for path in local.share_files() if path.is_relative_to(local.root(1))])
    assert sum(one.leases.renewed for one in done) == 40 - on_dead - 1


def test_check_renews_what_is_good(local: LocalGrid, caps: list[ChkVerifyCap]) -> None:
    path = next(path for path in local.share_files() if caps[0].abbreviation in str(path) and path.name == "3")
    whole = path.read_bytes()
    path.write_bytes(whole[:HEADER_SIZE])
    checking = Checking(7, os.urandom, renew=LATER.lease)
    with local.grid() as grid:
        report = check(grid, caps[0], checking)
    assert (report.leases, report.not_renewed) == (Leases(renewed=9), ())
    assert [bad.shnum for bad in report.corrupt] == [3]
    assert report.document()["leases"] == {"renewed": 9, "added": 0, "failed": 0}
    local.dials[0].dead = True
    with local.grid() as grid:
        [silent] = check_many(grid, [caps[1]], checking)
    assert silent.state == "unknown"
    assert silent.not_renewed == ()
