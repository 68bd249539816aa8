"""Capability strings: what each form says and grants (spec 00 §3, §4).

A cap is a value: two caps are equal when their canonical texts are. `str` gives that text and is the only way to see
it; `repr` and errors tell the kind and the storage index at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lafscli.errors import MalformedCap
from lafscli.primitives.encoding import b32decode, b32encode
from lafscli.primitives.hashes import readkey_from_writekey, storage_index_from_key, storage_index_from_readkey

READ_ONLY = "must be read-only"
DEEPLY_IMMUTABLE = "must be deeply immutable"

_MAX_DIGITS = 4000  # Python converts no number of more than 4300


class Cap:
    """What every cap answers; `str` is its canonical text.

    `readable`: it grants reading, as write and read caps do, verify caps and unknown ones don't.
    """

    __slots__ = ()

    writable = False
    mutable = False
    readable = False
    is_directory = False

    @property
    def kind(self) -> str:
        """One of `lit chk sdmf mdmf dir2 dir2-mdmf dir2-chk dir2-lit unknown`."""
        return "unknown"

    @property
    def storage_index(self) -> bytes | None:
        """16 bytes; None where there are no shares."""
        return None

    def read_cap(self) -> Cap:
        """The cap that grants reading and no more; a read, verify or unknown cap is returned itself."""
        return self

    def verify_cap(self) -> Cap | None:
        """The cap that grants checking; None where there are no shares."""
        return None

    @property
    def abbreviation(self) -> str:
        """For people: the first 5 characters of the storage index, or nothing."""
        si = self.storage_index
        return "" if si is None else b32encode(si)[:5]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.kind} {self.abbreviation or '-'}>"


# ---- immutable files -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class LitCap(Cap):
    """A small file inside its cap."""

    content: bytes

    kind = "lit"
    readable = True

    def __str__(self) -> str:
        return f"URI:LIT:{b32encode(self.content)}"


@dataclass(frozen=True, slots=True, repr=False)
class ChkVerifyCap(Cap):
    """Checks an immutable file: storage index (16 bytes), UEB hash (32 bytes), encoding, size in bytes."""

    si: bytes
    ueb_hash: bytes
    k: int
    n: int
    size: int

    kind = "chk"

    def __str__(self) -> str:
        return f"URI:CHK-Verifier:{b32encode(self.si)}:{b32encode(self.ueb_hash)}:{self.k}:{self.n}:{self.size}"

    @property
    def storage_index(self) -> bytes:
        return self.si

    def verify_cap(self) -> ChkVerifyCap:
        return self


@dataclass(frozen=True, slots=True, repr=False)
class ChkCap(Cap):
    """Reads an immutable file: key (16 bytes), UEB hash (32 bytes), encoding, size in bytes."""

    key: bytes
    ueb_hash: bytes
    k: int
    n: int
    size: int

    kind = "chk"
    readable = True

    def __str__(self) -> str:
        return f"URI:CHK:{b32encode(self.key)}:{b32encode(self.ueb_hash)}:{self.k}:{self.n}:{self.size}"

    @property
    def storage_index(self) -> bytes:
        return storage_index_from_key(self.key)

    def verify_cap(self) -> ChkVerifyCap:
        return ChkVerifyCap(self.storage_index, self.ueb_hash, self.k, self.n, self.size)


# ---- mutable files ---------------------------------------------------------------------------------------------


class _MutableCap(Cap):
    """What the three caps of a mutable file share: its format."""

    __slots__ = ()

    mdmf: bool
    mutable = True

    @property
    def kind(self) -> str:
        return "mdmf" if self.mdmf else "sdmf"

    def _text(self, power: str, secret: bytes, fingerprint: bytes) -> str:
        return f"URI:{'MDMF' if self.mdmf else 'SSK'}{power}:{b32encode(secret)}:{b32encode(fingerprint)}"


@dataclass(frozen=True, slots=True, repr=False)
class MutableVerifyCap(_MutableCap):
    """Checks a mutable file: storage index (16 bytes), fingerprint (32 bytes)."""

    mdmf: bool
    si: bytes
    fingerprint: bytes

    def __str__(self) -> str:
        return self._text("-Verifier", self.si, self.fingerprint)

    @property
    def storage_index(self) -> bytes:
        return self.si

    def verify_cap(self) -> MutableVerifyCap:
        return self


@dataclass(frozen=True, slots=True, repr=False)
class MutableReadCap(_MutableCap):
    """Reads a mutable file: read key (16 bytes), fingerprint (32 bytes)."""

    mdmf: bool
    readkey: bytes
    fingerprint: bytes

    readable = True

    def __str__(self) -> str:
        return self._text("-RO", self.readkey, self.fingerprint)

    @property
    def storage_index(self) -> bytes:
        return storage_index_from_readkey(self.readkey)

    def read_cap(self) -> MutableReadCap:
        return self

    def verify_cap(self) -> MutableVerifyCap:
        return MutableVerifyCap(self.mdmf, self.storage_index, self.fingerprint)


@dataclass(frozen=True, slots=True, repr=False)
class MutableWriteCap(_MutableCap):
    """Changes a mutable file: write key (16 bytes), fingerprint (32 bytes)."""

    mdmf: bool
    writekey: bytes
    fingerprint: bytes

    writable = True
    readable = True

    def __str__(self) -> str:
        return self._text("", self.writekey, self.fingerprint)

    @property
    def storage_index(self) -> bytes:
        return self.read_cap().storage_index

    def read_cap(self) -> MutableReadCap:
        return MutableReadCap(self.mdmf, readkey_from_writekey(self.writekey), self.fingerprint)

    def verify_cap(self) -> MutableVerifyCap:
        return self.read_cap().verify_cap()


# ---- directories and the unknown -------------------------------------------------------------------------------

FileReadCap = LitCap | ChkCap | MutableReadCap
FileVerifyCap = ChkVerifyCap | MutableVerifyCap
FileCap = FileReadCap | FileVerifyCap | MutableWriteCap


@dataclass(frozen=True, slots=True, repr=False)
class DirectoryCap(Cap):
    """A directory: `inner` is the cap of the file that holds its table, and grants the same."""

    inner: FileCap

    is_directory = True

    def __str__(self) -> str:
        text = str(self.inner).removeprefix("URI:")
        return f"URI:DIR2{text.removeprefix('SSK')}" if text.startswith("SSK") else f"URI:DIR2-{text}"

    @property
    def kind(self) -> str:
        return "dir2" if self.inner.kind == "sdmf" else f"dir2-{self.inner.kind}"

    @property
    def writable(self) -> bool:  # type: ignore[override]
        return self.inner.writable

    @property
    def mutable(self) -> bool:  # type: ignore[override]
        return self.inner.mutable

    @property
    def readable(self) -> bool:  # type: ignore[override]
        return self.inner.readable

    @property
    def storage_index(self) -> bytes | None:
        return self.inner.storage_index

    def read_cap(self) -> DirectoryCap:
        return DirectoryCap(self.inner.read_cap()) if isinstance(self.inner, MutableWriteCap) else self

    def verify_cap(self) -> DirectoryCap | None:
        inner = self.inner
        return None if isinstance(inner, LitCap) else DirectoryCap(inner.verify_cap())


@dataclass(frozen=True, slots=True, repr=False)
class UnknownCap(Cap):
    """Text kept as it came: a format of the future (`error` None), or a known one that can't be accepted."""

    text: str
    error: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.text


VerifyCap = FileVerifyCap | DirectoryCap


# ---- reading ---------------------------------------------------------------------------------------------------


def parse(text: str, *, deep_immutable: bool = False) -> Cap:
    """Read a cap; never raises. What is malformed, or grants more than its prefix `ro.` or `imm.` or its place in an
    immutable directory allows, comes back as an UnknownCap with an error that shows nothing of it (spec 00 §3.1)."""
    bare, allowed = text, DEEPLY_IMMUTABLE if deep_immutable else None
    if text.startswith("imm."):
        bare, allowed = text[4:], DEEPLY_IMMUTABLE
    elif text.startswith("ro."):
        bare, allowed = text[3:], allowed or READ_ONLY
    scheme, _, rest = bare.partition(":")
    name, colon, body = rest.partition(":")
    form = _FORMS.get(name) if scheme == "URI" and colon else None
    if form is None:
        return UnknownCap(text)
    try:
        cap = form(body)
    except _Malformed as error:
        return UnknownCap(text, f"malformed cap URI:{name}: {error}")
    refused = {None: False, READ_ONLY: cap.writable, DEEPLY_IMMUTABLE: cap.mutable and cap.readable}[allowed]
    return UnknownCap(text, allowed) if refused else cap


def parse_strict(text: str) -> Cap:
    """Read a cap of a form that is known here, else MalformedCap; its message shows nothing of the text."""
    cap = parse(text)
    if isinstance(cap, UnknownCap):
        raise MalformedCap(cap.error or "this is no cap of a kind that lafs knows")
    return cap


class _Malformed(Exception):
    """Says which field is wrong, in words that may be shown."""


def _fixed(text: str, size: int, what: str) -> bytes:
    try:
        data = b32decode(text)
    except ValueError:
        data = b""
    if len(data) != size:
        raise _Malformed(f"its {what} must be {size} bytes of base32")
    return data


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _Malformed(f"its {what} must be a number")
    digits = text.lstrip("0")
    if len(digits) > _MAX_DIGITS:
        raise _Malformed(f"its {what} is absurd")
    return int(digits or "0")


def _lit(body: str) -> LitCap:
    try:
        return LitCap(b32decode(body))
    except ValueError:
        raise _Malformed("its content must be base32") from None


def _chk_fields(body: str, first: str) -> tuple[bytes, bytes, int, int, int]:
    parts = body.split(":")
    if len(parts) != 5:
        raise _Malformed("it must have five fields")
    secret, ueb_hash = _fixed(parts[0], 16, first), _fixed(parts[1], 32, "UEB hash")
    k, n, size = _number(parts[2], "k"), _number(parts[3], "N"), _number(parts[4], "size")
    if not 1 <= k <= n <= 256:
        raise _Malformed("1 <= k <= N <= 256 must hold")
    if size < 1:
        raise _Malformed("its size must be at least 1")
    return secret, ueb_hash, k, n, size


def _chk(body: str) -> ChkCap:
    return ChkCap(*_chk_fields(body, "key"))


def _chk_verify(body: str) -> ChkVerifyCap:
    return ChkVerifyCap(*_chk_fields(body, "storage index"))


def _mutable_fields(body: str, mdmf: bool, first: str) -> tuple[bool, bytes, bytes]:
    secret, colon, rest = body.partition(":")
    if mdmf:
        # spec 00 §3: EXT, a hint of old caps, is dropped; a final newline is refused in every form
        rest, _, extension = rest.partition(":")
        if extension.endswith("\n"):
            raise _Malformed("it ends with a newline")
    if not colon:
        raise _Malformed("it must have two fields")
    return mdmf, _fixed(secret, 16, first), _fixed(rest, 32, "fingerprint")


def _mutable_forms(family: str, mdmf: bool) -> dict[str, Callable[[str], FileCap]]:
    return {
        family: lambda body: MutableWriteCap(*_mutable_fields(body, mdmf, "write key")),
        f"{family}-RO": lambda body: MutableReadCap(*_mutable_fields(body, mdmf, "read key")),
        f"{family}-Verifier": lambda body: MutableVerifyCap(*_mutable_fields(body, mdmf, "storage index")),
    }


def _directory(form: Callable[[str], FileCap]) -> Callable[[str], DirectoryCap]:
    return lambda body: DirectoryCap(form(body))


_FILES: dict[str, Callable[[str], FileCap]] = {
    "LIT": _lit,
    "CHK": _chk,
    "CHK-Verifier": _chk_verify,
    **_mutable_forms("MDMF", True),
}
_SSK = _mutable_forms("SSK", False)

# what stands between `URI:` and the next colon; so the longest prefix is the only one that matches
_FORMS: dict[str, Callable[[str], Cap]] = {
    **_FILES,
    **_SSK,
    **{f"DIR2-{name}": _directory(form) for name, form in _FILES.items()},
    **{f"DIR2{name.removeprefix('SSK')}": _directory(form) for name, form in _SSK.items()},
}
