"""Requests of our own, each announced by name in version 1. Numbers are big endian, a string is its length and itself,
a storage index 16 bytes.

policy@lafs         →  string JSON
presence@lafs       u8 0, u32 count, each (SI, u32 shnum)  →  u32 count, each u64 size (2^64-1: none)
                    u8 1, u32 count, each SI  →  each: u32 count, each (u32 shnum, u64 size)
inventory@lafs      string cursor, u32 most  →  u32 count, each (SI, u32 shnum, u64 size), string cursor
guard@lafs          u8 0, SI, string owner  →  string token, u64 time;  u8 1 or 2, SI, string token  →  OK
replace@lafs        SI, string token, u8 flags, u32 count, each u32 shnum  →  u32 count, each (u32, string)
cancel-lease@lafs   u32 count, each (SI, u32 shnum, 32s secret), nothing or each u32 latest end of the lease
                    →  u32 count, each (u32 status, string)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from functools import partial

from lafscli import __version__
from lafscli.errors import CorruptShare
from lafscli.primitives.encoding import Reader, b32decode, b32encode
from lafscli.server.backend import BAD_MESSAGE, FAILURE, OK, OP_UNSUPPORTED, PERMISSION_DENIED, Refused
from lafscli.server.guards import Guards
from lafscli.server.inventory import MOST, Presence, shares_after
from lafscli.server.jail import Jail, refusal
from lafscli.server.keeper import Keeper
from lafscli.server.passages import Passages
from lafscli.server.quota import Quota
from lafscli.server.spots import Kind, spot_of
from lafscli.server.terms import Policy

NAMES = ("policy@lafs", "presence@lafs", "inventory@lafs", "guard@lafs", "replace@lafs", "cancel-lease@lafs")

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_SIZED = struct.Struct(">IQ")
_LISTED = struct.Struct(">16sIQ")
_NONE = (1 << 64) - 1
_MOST_REPLY = 256 * 1024
_MOST_TEXT = 4096


class Extensions:
    """Answers the requests of one connection."""

    def __init__(
        self,
        policy: Policy,
        jail: Jail,
        guards: Guards,
        keeper: Keeper,
        passages: Passages,
        quota: Quota,
    ) -> None:
        self._policy = policy
        self._jail = jail
        self._guards = guards
        self._keeper = keeper
        self._passages = passages
        self._quota = quota
        self._answers: dict[str, Callable[[Reader], bytes | None]] = {
            "policy@lafs": self._tell_policy,
            "presence@lafs": self._tell_presence,
            "inventory@lafs": self._tell_inventory,
            "guard@lafs": self._guard,
            "replace@lafs": self._replace,
            "cancel-lease@lafs": self._cancel,
        }

    def answer(self, name: str, body: memoryview) -> bytes | None:
        """The body of the reply, or None for OK."""
        answer = self._answers.get(name)
        if answer is None:
            raise Refused(OP_UNSUPPORTED, "operation unsupported")
        try:
            return answer(Reader(body, "request"))
        except CorruptShare as error:
            raise Refused(BAD_MESSAGE, error.message) from error

    def _tell_policy(self, body: Reader) -> bytes:
        body.end()
        policy = self._policy
        told = {
            "software": f"lafs {__version__}",
            "append_only": policy.append_only,
            "read_only": policy.read_only,
            "quota": policy.quota,
            "used": self._quota.used() if not policy.read_only else None,
            "reserve": policy.reserve,
            "history": policy.history,
        }
        return _string(json.dumps(told).encode())

    def _tell_presence(self, body: Reader) -> bytes:
        sort, count = body.u8(), _count(body)
        presence = Presence(self._jail)
        try:
            if sort == 0:
                asked = [(body.take(16), body.u32()) for _ in range(count)]
                body.end()
                sizes = [presence.size(b32encode(si), shnum) for si, shnum in asked]
                return _U32.pack(count) + b"".join(_U64.pack(_NONE if size is None else size) for size in sizes)
            if sort == 1:
                sis = [body.take(16) for _ in range(count)]
                body.end()
                parts, length = [_U32.pack(count)], 0
                for si in sis:
                    numbers = presence.numbers(b32encode(si))
                    parts += [_U32.pack(len(numbers)), *(_SIZED.pack(*each) for each in numbers)]
                    length += 4 + _SIZED.size * len(numbers)
                    if length > _MOST_REPLY:
                        raise Refused(FAILURE, "too much for one answer: ask in smaller parts")
                return b"".join(parts)
        finally:
            presence.close()
        raise Refused(BAD_MESSAGE, f"presence@lafs has no question {sort}")

    def _tell_inventory(self, body: Reader) -> bytes:
        cursor, most = _text(body), body.u32()
        body.end()
        try:
            found, following = shares_after(self._jail, cursor.decode("ascii"), most)
        except UnicodeDecodeError:
            raise Refused(FAILURE, "that is no cursor of an inventory") from None
        parts = [_LISTED.pack(b32decode(si), shnum, size) for si, shnum, size in found]
        return b"".join([_U32.pack(len(parts)), *parts, _string(following.encode())])

    def _guard(self, body: Reader) -> bytes | None:
        sort, si, text = body.u8(), body.take(16), _text(body)
        body.end()
        self._insist_writable()
        if sort == 0:
            token, now = self._guards.take(si, text)
            return _string(token.encode()) + _U64.pack(now)
        token = text.decode("ascii", "replace")
        if sort == 1:
            self._guards.release(si, token)
        elif sort == 2:
            self._guards.set_aside(si, token)
        else:
            raise Refused(BAD_MESSAGE, f"guard@lafs has no question {sort}")
        return None

    def _replace(self, body: Reader) -> bytes:
        si, text, flags, count = body.take(16), _text(body), body.u8(), _count(body)
        shnums = [body.u32() for _ in range(count)]
        body.end()
        self._insist_writable()
        if flags & ~1:
            raise Refused(BAD_MESSAGE, f"replace@lafs has no flags {flags}")
        token = text.decode("ascii", "replace")
        self._guards.insist(si, token)
        bad = bool(flags)
        return _outcomes([self._outcome(partial(self._put, si, token, shnum, bad=bad)) for shnum in shnums])

    def _put(self, si: bytes, token: str, shnum: int, *, bad: bool) -> None:
        """What is staged, into its place. Where nothing is, and what stands there is said to be bad, that goes."""
        spot = spot_of(("locks", b32encode(si), token, str(shnum)))
        if spot.kind is not Kind.HELD:
            raise Refused(FAILURE, "no encoding has such a share number")
        self._quota.begin()
        if bad and self._jail.there(spot.names) is None:
            self._passages.put_away(spot)
        else:
            self._passages.place(spot, replace=True)

    def _outcome(self, act: Callable[[], None]) -> tuple[int, str]:
        try:
            act()
            return OK, ""
        except Refused as error:
            refused = error
        except OSError as error:
            refused = refusal(error)
        return refused.code, refused.message

    def _cancel(self, body: Reader) -> bytes:
        items = [(body.take(16), body.u32(), body.take(32)) for _ in range(_count(body))]
        latest = [body.u32() for _ in items] if body.remaining() else None
        body.end()
        self._insist_writable()
        self._quota.begin()
        return _outcomes(self._keeper.cancel(items, latest))

    def _insist_writable(self) -> None:
        if self._policy.read_only:
            raise Refused(PERMISSION_DENIED, "this server is read-only")


def _count(body: Reader) -> int:
    count = body.u32("count")
    if count > MOST:
        raise Refused(FAILURE, f"at most {MOST} at once: ask in smaller parts")
    return count


def _text(body: Reader) -> bytes:
    size = body.u32("length")
    if size > _MOST_TEXT:
        raise Refused(BAD_MESSAGE, f"a string of {size} bytes")
    return body.take(size, "string")


def _string(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data


def _outcomes(outcomes: Sequence[tuple[int, str]]) -> bytes:
    return _U32.pack(len(outcomes)) + b"".join(
        [_U32.pack(code) + _string(message.encode()) for code, message in outcomes]
    )
