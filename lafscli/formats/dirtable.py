"""Directory table: the content of the file that is a directory (spec 04 §2, §4).

    table = netstring(entry) …      sorted by name
    entry = netstring(name) netstring(ro) netstring(rwdata) netstring(metadata)

name: UTF-8, NFC. ro: read cap. rwdata: sealed write cap; empty in immutable directories. metadata: a JSON object.
An entry that is not changed keeps its bytes, whatever they are; one that can't be understood is left out of listings.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from lafscli.errors import MalformedDirectory, NotFound, NotGranted, UsageError
from lafscli.formats.caps import Cap
from lafscli.formats.child import Child, Unfit, child_caps, seal, stored_caps, unseal
from lafscli.primitives.encoding import netstring

_MAX_LENGTH_DIGITS = 10


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry that is kept, but can't be shown; `reason` shows nothing of its caps."""

    name: str
    reason: str


class Table:
    """Children by name; changed in place. Reading an entry is put off until it is asked for.

    `writekey` is that of the file of a mutable directory; without it only read caps are seen and nothing is changed.
    """

    def __init__(self, *, mutable: bool, writekey: bytes | None = None) -> None:
        assert mutable or writekey is None, "an immutable directory has no write key"
        self._mutable = mutable
        self._writekey = writekey
        self._entries: dict[bytes, bytes] = {}
        self._nameless: list[bytes] = []
        self._no_write_cap = b"" if writekey is None else seal(writekey, b"")

    @classmethod
    def parse(cls, data: bytes, *, mutable: bool, writekey: bytes | None = None) -> Self:
        """Read a table; MalformedDirectory if it does not fall apart into entries, or if an immutable directory
        holds a write cap."""
        table = cls(mutable=mutable, writekey=writekey)
        position = 0
        while position < len(data):
            try:
                start, end, position = _next(data, position)
            except Unfit as unfit:
                raise MalformedDirectory(f"directory table: at byte {position} an entry {unfit}") from None
            entry = data[start:end]
            try:
                start, end, _ = _next(entry, 0)
            except Unfit:
                table._nameless.append(entry)
                continue
            table._entries[_key(entry[start:end])] = entry
            if not mutable and _has_write_cap(entry):
                raise MalformedDirectory("directory table: an immutable directory holds a write cap")
        return table

    def serialise(self) -> bytes:
        return b"".join(
            [netstring(self._entries[key]) for key in sorted(self._entries)]
            + [netstring(entry) for entry in self._nameless]
        )

    def saved(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """What is in it now, for `restore`."""
        return dict(self._entries), list(self._nameless)

    def restore(self, saved: tuple[dict[bytes, bytes], list[bytes]]) -> None:
        """Undo what was changed since."""
        self._entries, self._nameless = dict(saved[0]), list(saved[1])

    def __len__(self) -> int:
        return len(self._entries) + len(self._nameless)

    def __contains__(self, name: str) -> bool:
        return _asked(name) in self._entries

    def child(self, name: str) -> Child:
        """One child: NotFound, or MalformedDirectory if its entry can't be understood."""
        key = _asked(name)
        if key not in self._entries:
            raise NotFound(f"{name}: no such entry")
        try:
            return self._read(key)
        except Unfit as unfit:
            raise MalformedDirectory(f"{name}: the entry can't be used: {unfit}") from None

    def listing(self) -> tuple[list[Child], list[LeftOut]]:
        """All children sorted by name, and the entries that can't be shown."""
        children = []
        left_out = [LeftOut("", "it has no name")] * len(self._nameless)
        for key in sorted(self._entries):
            try:
                children.append(self._read(key))
            except Unfit as unfit:
                left_out.append(LeftOut(key.decode(errors="replace"), str(unfit)))
        return children, left_out

    def link(
        self,
        name: str,
        cap: Cap,
        *,
        ro: Cap | None = None,
        metadata: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> None:
        """Add a child or replace it. `ro` is what goes with a write cap of an unknown format.

        `now` (Unix seconds) is noted as the time of the link; None when the directory is being created: the metadata
        is stored as given. UsageError for a name, a cap or metadata that can't be stored, NotGranted without the
        write key.
        """
        if self._mutable and self._writekey is None:
            raise NotGranted("the directory can't be changed with its read cap")
        key = _new_name(name)
        noted = dict(metadata or {}) if now is None else _relinked(self._old_metadata(key), metadata, now)
        try:
            rw_text, ro_text = stored_caps(cap, ro, immutable=not self._mutable)
            text = json.dumps(noted, allow_nan=False).encode()
            parts = key, ro_text.encode(), rw_text.encode()
        except Unfit as unfit:
            raise UsageError(f"{name}: can't be linked: {unfit}") from None
        except UnicodeEncodeError:
            raise UsageError(f"{name}: can't be linked: its cap is no text") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{name}: its metadata can't be written as JSON") from error
        sealed = self._sealed(b"" if noted.get("no-write") else parts[2])
        self._entries[key] = b"".join([netstring(part) for part in (key, parts[1], sealed, text)])

    def unlink(self, name: str) -> None:
        """Remove an entry, even one that can't be shown; NotFound."""
        if self._entries.pop(_asked(name), None) is None:
            raise NotFound(f"{name}: no such entry")

    def _sealed(self, cap: bytes) -> bytes:
        if self._writekey is None or not cap:
            return self._no_write_cap
        return seal(self._writekey, cap)

    def _read(self, key: bytes) -> Child:
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise Unfit("its name is not UTF-8") from None
        if not name:
            raise Unfit("its name is empty")
        ro, sealed, metadata = _parts(self._entries[key])
        rw = b"" if self._writekey is None else unseal(self._writekey, sealed)
        caps = child_caps(_text(rw), _text(ro), immutable=not self._mutable)
        return Child(name, *caps, _parse_metadata(metadata))

    def _old_metadata(self, key: bytes) -> dict[str, Any]:
        entry = self._entries.get(key)
        if entry is None:
            return {}
        try:
            return _parse_metadata(_parts(entry)[2])
        except Unfit:
            return {}


# ---- entries -----------------------------------------------------------------------------------------------------


def _next(data: bytes, position: int) -> tuple[int, int, int]:
    """Where the content of the netstring at `position` starts and ends, and what follows it starts."""
    colon = data.find(b":", position, position + _MAX_LENGTH_DIGITS + 1)
    digits = data[position:colon]
    if colon < 0 or not digits.isdigit() or (len(digits) > 1 and digits[0] == ord("0")):
        raise Unfit("has no proper length")
    end = colon + 1 + int(digits)
    if data[end : end + 1] != b",":
        raise Unfit("does not end with a comma")
    return colon + 1, end, end + 1


def _fields(entry: bytes) -> Iterator[bytes]:
    position = 0
    while True:
        start, end, position = _next(entry, position)
        yield entry[start:end]


def _parts(entry: bytes) -> tuple[bytes, bytes, bytes]:
    """Read cap, sealed write cap, metadata. What follows them is kept, and not looked at."""
    try:
        _, ro, sealed, metadata = islice(_fields(entry), 4)
    except Unfit as unfit:
        raise Unfit(f"a field of it {unfit}") from None
    return ro, sealed, metadata


def _has_write_cap(entry: bytes) -> bool:
    try:
        return bool(_parts(entry)[1])
    except Unfit:
        return False


def _text(cap: bytes) -> str:
    try:
        return cap.rstrip(b" ").decode()
    except UnicodeDecodeError:
        raise Unfit("its cap is no text") from None


def _key(stored: bytes) -> bytes:
    """What an entry is found by: its name in NFC, or the bytes that are no name."""
    if stored.isascii():
        return stored
    try:
        return unicodedata.normalize("NFC", stored.decode()).encode()
    except UnicodeDecodeError:
        return stored


def _asked(name: str) -> bytes:
    # what an argument has of bytes that are no UTF-8 comes back as those bytes: such an entry can be unlinked
    normal = unicodedata.normalize("NFC", name)
    try:
        return normal.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return normal.encode(errors="surrogatepass")


def _new_name(name: str) -> bytes:
    if not name:
        raise UsageError("a name in a directory can't be empty")
    if "/" in name:
        raise UsageError(f"{name}: a name in a directory can't contain a slash")
    try:
        return unicodedata.normalize("NFC", name).encode()
    except UnicodeEncodeError:
        raise UsageError("a name in a directory must be text that UTF-8 can say") from None


# ---- metadata ----------------------------------------------------------------------------------------------------


def _parse_metadata(text: bytes) -> dict[str, Any]:
    try:
        metadata = json.loads(text.decode(), parse_constant=_no_json, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Unfit("its metadata is not JSON") from None
    if not isinstance(metadata, dict):
        raise Unfit("its metadata is not a JSON object")
    return metadata


def _no_json(constant: str) -> float:
    raise ValueError(constant)


def _finite(digits: str) -> float:
    number = float(digits)
    # it could not be written again
    if not math.isfinite(number):
        raise ValueError(digits)
    return number


def _relinked(old: Mapping[str, Any], new: Mapping[str, Any] | None, now: float) -> dict[str, Any]:
    """Metadata of a link that is set now (spec 04 §4)."""
    metadata = dict(old if new is None else new)
    kept = old.get("tahoe")
    times = dict(kept) if isinstance(kept, dict) else {}
    if "linkcrtime" not in times:
        times["linkcrtime"] = old.get("ctime", now)
    times["linkmotime"] = now
    metadata["tahoe"] = times
    return metadata
