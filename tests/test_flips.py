"""Shares that were damaged, in every region and by every sort of damage: get is right or says that it can't, never
wrong; check --verify names each damaged share and no other.

What is damage is told here by an oracle of three lines (`is_fine`), not by the code under test.
`test_proof.py` flips every byte and cuts at every length under the share reader itself.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafscli.errors import NotRecoverable
from lafscli.formats.caps import ChkCap
from lafscli.formats.chk import HEADER_MAX, Layout, Sizes
from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE
from lafscli.health.check import Checking, check_many
from lafscli.immutable.download import download
from lafscli.immutable.upload import upload
from lafscli.placement import Encoding
from tests.grids import LocalGrid, content, writing
from tests.lafs_process import Lafs

VERIFY = Checking(1, os.urandom, verify=True)


@dataclass
class Stored:
    """A file on as many servers as it has shares, with the bytes of each container as they were."""

    local: LocalGrid
    cap: ChkCap
    data: bytes
    files: dict[int, Path]
    whole: dict[int, bytes]
    layout: Layout

    def spoil(self, changed: Mapping[int, bytes]) -> None:
        for shnum, data in changed.items():
            self.files[shnum].write_bytes(data)

    def mend(self, changed: Mapping[int, bytes]) -> None:
        for shnum in changed:
            self.files[shnum].write_bytes(self.whole[shnum])

    def is_fine(self, shnum: int, data: bytes) -> bool:
        """Spec 02 §6: the share is what lies between the header and the leases; more bytes behind it are nobody's."""
        if len(data) < 12 or data[:4] not in (b"\0\0\0\1", b"\0\0\0\2"):
            return False
        share = data[12 : max(12, len(data) - 72 * int.from_bytes(data[8:12], "big"))]
        return share.startswith(self.whole[shnum][12:-72])

    def get(self) -> bytes | None:
        """The file, or None where too few shares are said to be good."""
        out = bytearray()
        with self.local.grid() as grid:
            try:
                download(grid, self.cap, out.extend)
            except NotRecoverable:
                assert self.data.startswith(bytes(out)), "what was written before is proved too"
                return None
        return bytes(out)

    def damaged(self) -> set[int]:
        """The shares that `check --verify` names."""
        with self.local.grid() as grid:
            [report] = check_many(grid, [self.cap.verify_cap()], VERIFY)
        assert report.good_shares == self.cap.n - len({bad.shnum for bad in report.corrupt})
        assert all(bad.reason.isprintable() for bad in report.corrupt)
        return {bad.shnum for bad in report.corrupt}

    def regions(self) -> dict[str, tuple[int, int]]:
        """Where each part of a container lies."""
        layout, end = self.layout, len(self.whole[0]) - LEASE_SIZE
        fields = struct.Struct(">9L" if layout.version == 1 else ">L8Q")
        width = (fields.size - 4) // 8
        starts = {"container version": 0, "container length": 4, "lease count": 8}
        names = ["block size", "share data", "o.data", "o.plaintext", "o.crypttext", "o.blocks", "o.shares", "o.UEB"]
        starts |= {"share version": 12} | {name: 16 + width * i for i, name in enumerate(names)}
        starts |= {
            "blocks": 12 + layout.data,
            "plaintext hash tree": 12 + layout.plaintext_hash_tree,
            "crypttext hash tree": 12 + layout.crypttext_hash_tree,
            "block hashes": 12 + layout.block_hashes,
            "share hashes": 12 + layout.share_hashes,
            "UEB length": 12 + layout.uri_extension,
            "UEB": 12 + layout.uri_extension + layout.length_size,
            "lease": end,
        }
        ends = [*list(starts.values())[1:], len(self.whole[0])]
        return {name: (start, stop) for (name, start), stop in zip(starts.items(), ends, strict=True)}


FORMS = {
    "1-of-1": (1, 1, 2500, 700, 1),
    "1-of-1 v2": (1, 1, 2500, 700, 2),
    "3-of-10, one segment": (3, 10, 900, 131072, 1),
    "3-of-10": (3, 10, 5000, 1200, 1),
    "3-of-10 v2": (3, 10, 5000, 1200, 2),
    "16-of-20": (16, 20, 9000, 3200, 1),
    "16-of-20 v2": (16, 20, 9000, 3200, 2),
}
IGNORED = {"container length", "lease count", "block size", "share data", "plaintext hash tree", "lease"}
"""What get has no use for; `check --verify` looks at it, but for the container's length and the leases."""


SLOW = {"1-of-1", "16-of-20 v2"}
"""Forms of which each half, the encoding and the version, is in another one."""


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in FORMS]
)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    k, n, size, segment, version = FORMS[request.param]
    local = LocalGrid(tmp_path_factory.mktemp("flips"), n)
    data = content(size, k)
    with local.grid() as grid:
        source = data if version == 1 else BytesIO(data)
        cap = upload(grid, source, writing(Encoding(k, n, n, segment))).cap
    assert isinstance(cap, ChkCap)
    files = {int(path.name): path for path in local.share_files()}
    whole = {shnum: path.read_bytes() for shnum, path in files.items()}
    layout = Layout.parse(whole[0][HEADER_SIZE : HEADER_SIZE + HEADER_MAX])
    assert layout.version == version
    assert layout == Layout.build(Sizes.plan(k, n, size, segment), version)
    yield Stored(local, cap, data, files, whole, layout)
    local.close()


def test_as_it_was_stored(stored: Stored) -> None:
    assert stored.get() == stored.data
    assert stored.damaged() == set()
    assert all(stored.is_fine(shnum, data) for shnum, data in stored.whole.items())


def test_a_flip_in_the_same_region_of_every_share(stored: Stored) -> None:
    """The worst case: there is no other share to go to."""
    for region, (start, stop) in stored.regions().items():
        for position in {start, stop - 1}:
            changed = {}
            for shnum, data in stored.whole.items():
                changed[shnum] = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
            stored.spoil(changed)
            try:
                got, damaged = stored.get(), stored.damaged()
            finally:
                stored.mend(changed)
            where = f"{region}, byte {position}"
            if region != "o.plaintext":  # only its order is looked at
                assert got == (stored.data if region in IGNORED else None), where
            assert got in (stored.data, None), where
            assert damaged == {shnum for shnum, data in changed.items() if not stored.is_fine(shnum, data)}, where
            assert (not damaged) == (region in ("container length", "lease") or position == 11), where


@st.composite
def damage(draw: st.DrawFn, stored: Stored, shnum: int) -> bytes:
    """A container, and one sort of damage."""
    data = stored.whole[shnum]
    start, stop = stored.regions()[draw(st.sampled_from(list(stored.regions())))]
    position = draw(st.integers(start, stop - 1))
    sort = draw(st.sampled_from(["flip", "flip", "field", "cut", "cut", "gap", "more", "fill", "swap", "other", "two"]))
    if sort == "flip":
        return data[:position] + bytes([data[position] ^ 1 << draw(st.integers(0, 7))]) + data[position + 1 :]
    if sort == "field":  # a number of the header that is another number
        width = min(4 if stored.layout.version == 1 or start < 16 else 8, stop - start)
        value = draw(st.sampled_from([0, 1, 2, 3, 12, 36, 68, 1 << 31, (1 << 32) - 1, 1 << 63]) | st.integers(0, 9999))
        return data[:start] + (value % (1 << 8 * width)).to_bytes(width, "big") + data[start + width :]
    if sort == "cut":
        return data[:position]
    if sort == "gap":
        return data[:position] + data[position + draw(st.integers(1, 200)) :]
    if sort == "more":
        return data[:position] + draw(st.binary(min_size=1, max_size=200)) + data[position:]
    if sort == "fill":
        return data[:start] + bytes([draw(st.sampled_from([0, 255]))]) * (stop - start) + data[stop:]
    if sort == "swap":
        return stored.whole[draw(st.sampled_from(sorted(stored.whole)))]
    if sort == "other":
        return data[:12] + draw(st.randoms(use_true_random=False)).randbytes(len(data) - 84) + data[-72:]
    other = draw(st.integers(12, len(data) - 73))  # two bytes changed places
    low, high = sorted((max(12, min(position, len(data) - 73)), other))
    swapped = bytearray(data)
    swapped[low], swapped[high] = swapped[high], swapped[low]
    return bytes(swapped)


def some_damage(stored: Stored, data: st.DataObject) -> None:
    cap = stored.cap
    numbers = data.draw(st.lists(st.integers(0, cap.n - 1), min_size=1, max_size=cap.n, unique=True))
    changed = {shnum: data.draw(damage(stored, shnum)) for shnum in numbers}
    spoilt = {shnum for shnum, share in changed.items() if not stored.is_fine(shnum, share)}
    stored.spoil(changed)
    try:
        got, damaged = stored.get(), stored.damaged()
    finally:
        stored.mend(changed)
    assert got in (stored.data, None)
    if cap.n - len(spoilt) >= cap.k:
        assert got == stored.data
    assert damaged == spoilt


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_to_any_shares(stored: Stored, data: st.DataObject) -> None:
    some_damage(stored, data)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_much_damage_to_any_shares(stored: Stored, data: st.DataObject) -> None:
    some_damage(stored, data)


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["1-of-1"], indirect=True)
def test_every_byte_and_every_length_of_the_only_share(stored: Stored) -> None:
    regions = stored.regions()
    whole = stored.whole[0]
    for position in range(len(whole)):
        region = next(name for name, (start, stop) in regions.items() if start <= position < stop)
        for changed in (whole[:position], whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :]):
            stored.spoil({0: changed})
            got = stored.get()
            assert got in (None, stored.data), position
            if region != "lease" and (len(changed) < len(whole) or region not in (*IGNORED, "o.plaintext")):
                assert got is None, position
    stored.mend({0: b""})


# ---- from the command line


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    made = Lafs(tmp_path_factory.mktemp("client"))
    made("init", "--local", code=0)
    (made.folder / "file").write_bytes(content(400_000))
    (made.folder / "cap").write_bytes(made("put", "file", code=0).stdout)
    return made


def spoilt(data: bytes, how: str) -> bytes:
    place = {"container": 3, "header": 40, "blocks": 5000, "trees": len(data) - 900, "UEB": len(data) - 100}
    if how in place:
        return data[: place[how]] + bytes([data[place[how]] ^ 8]) + data[place[how] + 1 :]
    return {"empty": b"", "short": data[:20], "half": data[: len(data) // 2], "raw": data[12:-72]}[how]


SORTS = ["container", "header", "blocks", "trees", "UEB", "empty", "short", "half", "raw"]


@pytest.mark.parametrize("count", [7, 8])
def test_exit_codes(lafs: Lafs, count: int) -> None:
    """Seven damaged shares of ten in as many ways: get succeeds; eight: exit 5, and nothing is left under the name."""
    shares = sorted((lafs.home / "grid").glob("*/shares/*/*/*"))
    whole = {path: path.read_bytes() for path in shares}
    chosen = random.Random(count).sample(shares, count)
    for path, how in zip(chosen, SORTS, strict=False):
        path.write_bytes(spoilt(whole[path], how))
    copy = lafs.folder / "copy"
    copy.unlink(missing_ok=True)
    try:
        done = lafs("get", "@cap", "copy", code=0 if count == 7 else 5)
        report = lafs.json("check", "@cap", "--verify", code=10 if count == 7 else 5)
        piped = lafs("get", "@cap", "-", code=0 if count == 7 else 5)
    finally:
        for path, data in whole.items():
            path.write_bytes(data)
    for said in (done.stderr, piped.stderr):
        assert b"Traceback" not in said
        assert b"internal error" not in said
    assert {bad["share"] for bad in report["corrupt"]} == {int(path.name) for path in chosen}
    assert report["recoverable"] is (count == 7)
    if count == 7:
        assert copy.read_bytes() == piped.stdout == content(400_000)
    else:
        assert not copy.exists()
        assert content(400_000).startswith(piped.stdout)
        assert b"not enough shares" in done.stderr
        assert [path for path in lafs.folder.iterdir() if path.name.startswith(".lafs-")] == []
