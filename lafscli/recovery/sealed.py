"""A sealed recovery kit: what a passphrase opens, and nobody else can read or change unnoticed.

     0  18s  "lafs recovery kit\\n"
    18  u8   version = 1
    19  u8   key derivation = 1: Argon2id 1.3, one lane
    20  u32  passes
    24  u32  memory in KiB
    28  16s  salt
    44  24s  nonce
    68       SecretBox of the header (bytes 0-43) and the content
    -32 32s  tagged SHA-256d of all before it: tells damage from a wrong passphrase, and nothing else

The key is Argon2id of the passphrase, with passes, memory and salt as they stand. The header is sealed once more with
the content, and compared. Passes and memory are bounded before anything is computed: they come from whoever made the
file.
"""

from __future__ import annotations

import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from lafscli.errors import DamagedKit, LafsError, UsageError, WrongPassphrase
from lafscli.primitives import ciphers
from lafscli.primitives.hashes import tagged_hash

MOST_BYTES = 64 << 20
"""A kit that is longer is not read."""
MOST_PASSES = 16
MOST_KIBIBYTES = 1 << 20
LEAST_KIBIBYTES = 8
LONGEST_PASSPHRASE = 4096

_MAGIC = b"lafs recovery kit\n"
_VERSION = 1
_ARGON2ID = 1
_HEADER = struct.Struct(f">{len(_MAGIC)}sBBII{ciphers.BOX_SALT}s")
_BOX = _HEADER.size + ciphers.BOX_NONCE
_CHECK = 32
_LEAST_BYTES = _BOX + ciphers.BOX_OVERHEAD + _HEADER.size + _CHECK
_DAMAGED = "the recovery kit is damaged"
_HINT = "take another copy of it: lafs recovery import --from URL reads those that were left on servers"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a guess at the passphrase costs: passes over so much memory."""

    passes: int
    kibibytes: int


COST = Cost(4, 256 * 1024)
"""Half a second, and 256 MiB, which the smallest machine that one recovers on should have."""


_LEAST_MADE = 8 << 20


def cost_of(memory: int) -> Cost:
    """The cost with so many bytes of memory, for a kit that is made; UsageError where that is too few or too many."""
    if not _LEAST_MADE <= memory <= MOST_KIBIBYTES * 1024:
        raise UsageError(
            f"the memory for a passphrase can't be {memory} bytes",
            hint=f"from {_LEAST_MADE >> 20}M, which protects little, to 1G, which small machines have not",
        )
    return Cost(COST.passes, memory // 1024)


def prepared(passphrase: str | bytes) -> bytes:
    """The bytes that a passphrase stands for: UTF-8 in Unicode's form NFC, so that every keyboard gives the same; bytes
    that are not UTF-8 as they are. UsageError for one that is empty or too long."""
    if isinstance(passphrase, bytes):
        passphrase = passphrase.decode("utf-8", "surrogateescape")
    made = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
    if not made.strip():
        raise UsageError("an empty passphrase protects nothing", hint="some random words, five or more")
    if len(made) > LONGEST_PASSPHRASE:
        raise UsageError(f"the passphrase is longer than {LONGEST_PASSPHRASE} bytes", hint="is it the right file?")
    return made


@dataclass(frozen=True, slots=True)
class SealedKit:
    """A kit as it lies in a file or on a server."""

    cost: Cost
    salt: bytes
    nonce: bytes
    box: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read it; DamagedKit where bytes are missing or others, UsageError for what is no kit that can be opened."""
        if not data:
            raise UsageError("not a recovery kit: there is nothing in it", hint=_HINT)
        if data[: len(_MAGIC)] != _MAGIC[: len(data)]:
            raise UsageError("not a recovery kit", hint="lafs recovery export makes one")
        if len(data) < _LEAST_BYTES:
            raise DamagedKit(f"{_DAMAGED}: it is cut short", hint=_HINT)
        if len(data) > MOST_BYTES:
            raise UsageError(f"not a recovery kit: it is longer than {MOST_BYTES >> 20} MiB")
        if data[len(_MAGIC)] != _VERSION:
            raise UsageError(
                f"the recovery kit is of version {data[len(_MAGIC)]}, and this lafs knows version {_VERSION}",
                hint="a newer lafs may know it; or the kit is damaged, and another copy is not",
            )
        if data[-_CHECK:] != _check(data[:-_CHECK]):
            raise DamagedKit(f"{_DAMAGED}: bytes of it have changed, or are missing", hint=_HINT)
        _, _, derivation, passes, kibibytes, salt = _HEADER.unpack_from(data)
        if derivation != _ARGON2ID:
            raise UsageError("the recovery kit is sealed in a way that this lafs does not know")
        _bounded(Cost(passes, kibibytes))
        return cls(Cost(passes, kibibytes), salt, data[_HEADER.size : _BOX], data[_BOX:-_CHECK])

    def serialise(self) -> bytes:
        """The bytes of the file."""
        data = _header(self.cost, self.salt) + self.nonce + self.box
        return data + _check(data)

    def open(self, passphrase: bytes) -> bytes:
        """The content. WrongPassphrase, which is also what a kit says that somebody changed with care."""
        text = ciphers.unseal(_key(passphrase, self.salt, self.cost), self.nonce, self.box)
        if text is None:
            raise WrongPassphrase(
                "the passphrase does not open the recovery kit",
                hint="it is that of the export which made this kit; or somebody changed the kit: try another copy",
            )
        if text[: _HEADER.size] != _header(self.cost, self.salt):
            raise DamagedKit(f"{_DAMAGED}: its header is not the one that was sealed", hint=_HINT)
        return text[_HEADER.size :]


def seal(content: bytes, passphrase: bytes, random_bytes: Callable[[int], bytes], *, cost: Cost = COST) -> SealedKit:
    """Seal a content with a passphrase that was `prepared`."""
    salt, nonce = random_bytes(ciphers.BOX_SALT), random_bytes(ciphers.BOX_NONCE)
    if len(content) > MOST_BYTES - _LEAST_BYTES:
        raise LafsError(
            f"the recovery kit would be longer than {MOST_BYTES >> 20} MiB",
            hint="most of it are pins: link what they name into a directory, and lafs unpin it",
        )
    return SealedKit(
        cost, salt, nonce, ciphers.seal(_key(passphrase, salt, cost), nonce, _header(cost, salt) + content)
    )


def _header(cost: Cost, salt: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, _ARGON2ID, cost.passes, cost.kibibytes, salt)


def _check(data: bytes) -> bytes:
    return tagged_hash(b"lafs_recovery_kit_v1", data)


def _bounded(cost: Cost) -> None:
    """Refuse what would take gigabytes or hours, or what the library can't do."""
    if not 1 <= cost.passes <= MOST_PASSES or not LEAST_KIBIBYTES <= cost.kibibytes <= MOST_KIBIBYTES:
        raise UsageError(
            f"the recovery kit asks for {cost.passes} passes over {cost.kibibytes} KiB, which no kit of lafs needs",
            hint=f"at most {MOST_PASSES} passes and {MOST_KIBIBYTES} KiB; somebody may have made it to do harm",
        )


def _key(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    try:
        return ciphers.stretch(passphrase, salt, passes=cost.passes, kibibytes=cost.kibibytes)
    except MemoryError:
        raise LafsError(
            f"there is not enough memory for the passphrase: it takes {-(-cost.kibibytes // 1024)} MiB",
            hint="close other programs, or use a machine with more memory",
        ) from None
