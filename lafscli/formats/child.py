"""Caps of a directory's child: how they are sealed, and what an entry may hold (spec 04 §3, §5, §6).

A sealed write cap: 16 bytes of salt, the cap under AES-CTR, 32 bytes of mac. Readers do not check the mac.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from lafscli.formats.caps import Cap, UnknownCap, parse
from lafscli.primitives.ciphers import AesCtr
from lafscli.primitives.hashes import child_cap_key, child_cap_salt

_SALT = 16
_MAC = 32
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class Unfit(Exception):
    """Says why these caps can't be a child, in words that show none of them."""


@dataclass(frozen=True, slots=True)
class Child:
    """One child of a directory. `rw` grants writing, or is of an unknown format; `ro` grants reading and no more."""

    name: str
    rw: Cap | None
    ro: Cap | None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cap(self) -> Cap:
        """The strongest cap of the child; an UnknownCap without text where there is none at all."""
        return self.rw or self.ro or UnknownCap("")


# ---- sealed write caps -------------------------------------------------------------------------------------------


def seal(writekey: bytes, cap: bytes) -> bytes:
    """A child's write cap, or nothing, under the write key of the directory's file."""
    salt = child_cap_salt(cap)
    key = child_cap_key(salt, writekey)
    sealed = salt + (AesCtr(key).update(cap) if cap else b"")
    # spec 04 §3: no HMAC, the pads are as short as the key
    return sealed + sha256(key.translate(_OUTER) + sha256(key.translate(_INNER) + sealed).digest()).digest()


def unseal(writekey: bytes, sealed: bytes) -> bytes:
    """What was sealed; nothing where the entry has no sealed part at all."""
    if not sealed:
        return b""
    if len(sealed) < _SALT + _MAC:
        raise Unfit("its sealed write cap is cut short")
    ciphertext = sealed[_SALT:-_MAC]
    return AesCtr(child_cap_key(sealed[:_SALT], writekey)).update(ciphertext) if ciphertext else b""


# ---- what an entry may hold --------------------------------------------------------------------------------------


def child_caps(rw: str, ro: str, *, immutable: bool) -> tuple[Cap | None, Cap | None]:
    """The caps that these texts of an entry, or of a caller, stand for; Unfit if they break a rule.

    `immutable`: they are of a child of an immutable directory.
    """
    if not rw:
        return None, _read_only(ro, immutable) if ro else None
    cap = parse(rw, deep_immutable=immutable)
    if not isinstance(cap, UnknownCap):
        # spec 04 §5.1: the read cap is derived, whatever is stored beside a known one
        return (cap, cap.read_cap()) if cap.writable else (None, cap)
    if cap.error:
        raise Unfit(cap.error)
    if not ro and rw.startswith(("imm.",) if immutable else ("ro.", "imm.")):
        return None, _read_only(rw, immutable)
    if immutable:
        raise Unfit("a write cap of an unknown format can't be in an immutable directory")
    if ro.startswith("imm."):
        raise Unfit("an immutable child can't have a write cap")
    if not ro:
        raise Unfit("a cap of an unknown format, of which nobody can tell what it grants")
    return cap, _read_only(ro, immutable)


def _read_only(text: str, immutable: bool) -> Cap:
    if immutable:
        text = f"imm.{text.removeprefix('imm.') if text.startswith('imm.') else text.removeprefix('ro.')}"
    elif not text.startswith(("ro.", "imm.")):
        text = f"ro.{text}"
    cap = parse(text)
    if isinstance(cap, UnknownCap) and cap.error:
        raise Unfit(cap.error)
    return cap


def stored_caps(cap: Cap, ro: Cap | None, *, immutable: bool) -> tuple[str, str]:
    """The texts (rw, ro) that an entry keeps of a child; Unfit for what a writer must refuse.

    `ro` is looked at only if `cap` is of an unknown format.
    """
    if isinstance(cap, UnknownCap):
        if cap.error:
            raise Unfit(cap.error)
    elif not cap.readable:
        raise Unfit("a verify cap can't be a child")
    # a child without a write cap has its read cap as `cap` too
    rw, ro = child_caps(str(cap), "" if ro is None or ro == cap else str(ro), immutable=immutable)
    text = "" if ro is None else str(ro)
    if isinstance(ro, UnknownCap):
        text = _stripped(text, "imm." if immutable else "ro.")
    return "" if rw is None else str(rw), text


def _stripped(text: str, prefix: str) -> str:
    """Spec 04 §6: the reader puts the prefix back, unless it finds one."""
    bare = text.removeprefix(prefix)
    return text if bare.startswith(("ro.", "imm.")) else bare
