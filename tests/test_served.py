"""The calls of `lafs serve` as the client makes them: bodies, and replies of servers that mean no good."""

from __future__ import annotations

import json
import struct
import tomllib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafscli.errors import FileDenied, FileError, FileMissing, GuardLost, LafsError, NotSupported, ServerUnreachable
from lafscli.primitives.encoding import b32encode
from lafscli.storage import packets, served
from lafscli.storage.calls import Calls
from lafscli.storage.folder import FolderStore
from lafscli.storage.ops import Ask, Policy, Stat
from lafscli.storage.owner import Owner
from lafscli.storage.packets import GUARD, INVENTORY, OWN, POLICY, PRESENCE, REPLACE, ProtocolViolation, string
from lafscli.storage.servedguard import ServedGuard, call_for_guard
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import FileRange, Lease, LeaseOf, Look, Server
from tests.scripted_sftp import Answer, ScriptedServer, packet, status, version

SI = bytes(range(16))
ME, TOKEN = Owner("host", "boot", 5, 20.0), "a" * 26
SIS = sorted((bytes([n]) * 16 for n in range(256)), key=b32encode)
NONE = (1 << 64) - 1
u32, u64 = packets.U32.pack, packets.U64.pack


# ---- bodies ------------------------------------------------------------------------------------------------------


def test_the_bytes_of_every_question() -> None:
    assert served.ask_sizes([(SI, 3), (SI, 255)]) == b"\0" + u32(2) + SI + u32(3) + SI + u32(255)
    assert served.ask_shares([SI, SI]) == b"\1" + u32(2) + SI + SI
    assert served.ask_inventory(b"on", 7) == u32(2) + b"on" + u32(7)
    assert served.ask_guard(SI, b"me") == b"\0" + SI + u32(2) + b"me"
    assert served.give_up_guard(served.RELEASE, SI, "token") == b"\1" + SI + u32(5) + b"token"
    assert served.give_up_guard(served.SET_ASIDE, SI, "token") == b"\2" + SI + u32(5) + b"token"
    wanted = SI + u32(5) + b"token" + b"\1" + u32(2) + u32(3) + u32(4)
    assert served.replace_shares(SI, "token", [3, 4], quarantine=True) == wanted
    assert served.cancel_leases([(SI, 3, b"c" * 32)]) == u32(1) + SI + u32(3) + b"c" * 32


@given(st.lists(st.one_of(st.none(), st.integers(0, (1 << 63) - 1)), max_size=50))
def test_sizes_are_read_as_they_were_written(sizes: list[int | None]) -> None:
    reply = u32(len(sizes)) + b"".join(u64(NONE if size is None else size) for size in sizes)
    assert served.parse_sizes(reply, len(sizes)) == sizes


@given(st.lists(st.dictionaries(st.integers(0, 255), st.integers(0, (1 << 63) - 1), max_size=20), max_size=10))
def test_shares_are_read_as_they_were_written(shares: list[dict[int, int]]) -> None:
    parts = [u32(len(each)) + b"".join(struct.pack(">IQ", *item) for item in each.items()) for each in shares]
    assert served.parse_shares(u32(len(shares)) + b"".join(parts), len(shares)) == shares


def page(shares: list[tuple[bytes, int, int]], cursor: bytes = b"") -> bytes:
    return u32(len(shares)) + b"".join(struct.pack(">16sIQ", *each) for each in shares) + string(cursor)


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 9), st.integers(0, 1 << 40)), unique_by=lambda s: s[:2]),
    st.integers(1, 9),
)
def test_an_inventory_is_read_page_by_page(shares: list[tuple[int, int, int]], most: int) -> None:
    everything = [(SIS[index], shnum, size) for index, shnum, size in sorted(shares)]
    pages = served.Inventory()
    found: list[tuple[bytes, int, int]] = []
    for start in range(0, len(everything) or 1, most):
        more = start + most < len(everything)
        found += pages.page(page(everything[start : start + most], b"on" if more else b""))
        assert bool(pages.cursor) is more
    assert found == everything


def test_a_policy() -> None:
    told: dict[str, Any] = {"software": "lafs 1.0\x1b[2J", "append_only": True, "read_only": False}
    told |= {"quota": 10, "used": 3, "reserve": 4, "history": 5, "later": "unknown"}
    found = served.parse_policy(string(json.dumps(told).encode()))
    assert found == Policy("lafs 1.0\\x1b[2J", True, False, 10, 3, 4, 5)
    assert served.parse_policy(string(b"{}")) == Policy("", False, False, None, None, 0, 0)


@given(st.lists(st.tuples(st.sampled_from([0, 2, 3, 4, 8, 99]), st.text(max_size=50)), max_size=9))
def test_outcomes(told: list[tuple[int, str]]) -> None:
    reply = u32(len(told)) + b"".join(u32(code) + string(text.encode()) for code, text in told)
    found = served.parse_outcomes(reply, len(told), "here")
    for (code, text), outcome in zip(told, found, strict=True):
        assert (outcome is None) is (code == 0)
        if outcome is not None and text.isprintable() and text:
            assert outcome.message == text[:1].lower() + text[1:]
            assert outcome.server == "here"
    kinds = [
        type(found[0]) for found in [served.parse_outcomes(u32(1) + u32(c) + string(b"x"), 1, "") for c in (2, 3, 4)]
    ]
    assert kinds == [FileMissing, FileDenied, FileError]


Parse = Callable[[bytes], object]


def inventory(reply: bytes) -> object:
    pages = served.Inventory()
    pages.page(page([(SIS[5], 3, 1)], b"on"))
    return pages.page(reply)


HOSTILE: list[tuple[str, Parse, bytes]] = [
    ("no sizes", lambda reply: served.parse_sizes(reply, 1), b""),
    ("too few sizes", lambda reply: served.parse_sizes(reply, 2), u32(1) + u64(5)),
    ("sizes cut short", lambda reply: served.parse_sizes(reply, 2), u32(2) + u64(5) + b"\0"),
    ("too many sizes", lambda reply: served.parse_sizes(reply, 1), u32(1) + u64(5) + u64(5)),
    ("a size that can't be", lambda reply: served.parse_sizes(reply, 1), u32(1) + u64(1 << 63)),
    ("a great number of shares", lambda reply: served.parse_shares(reply, 1), u32(1) + u32(257) + bytes(12 * 257)),
    ("a number that can't be", lambda reply: served.parse_shares(reply, 1), u32(1) + u32(1) + u32(256) + u64(1)),
    ("a number twice", lambda reply: served.parse_shares(reply, 1), u32(1) + u32(2) + (u32(1) + u64(1)) * 2),
    ("shares cut short", lambda reply: served.parse_shares(reply, 2), u32(2) + u32(0)),
    ("more behind shares", lambda reply: served.parse_shares(reply, 1), u32(1) + u32(0) + b"\0"),
    ("a page backwards", inventory, page([(SIS[4], 0, 1)], b"on")),
    ("a page again", inventory, page([(SIS[5], 3, 1)], b"on")),
    ("a share twice in a page", inventory, page([(SIS[6], 3, 1), (SIS[6], 3, 1)])),
    ("a share number in a page", inventory, page([(SIS[6], 256, 1)])),
    ("a size in a page", inventory, page([(SIS[6], 0, NONE)])),
    ("an empty page that leads on", inventory, page([], b"on")),
    ("a page of too many", inventory, u32(8001) + bytes(28 * 8001) + u32(0)),
    ("a page cut short", inventory, page([(SIS[6], 0, 1)])[:-1]),
    ("a cursor without end", inventory, page([(SIS[6], 0, 1)], bytes(5000))),
    ("a token that leads away", served.parse_guard, string(b"../../shares") + u64(1)),
    ("no token", served.parse_guard, string(b"") + u64(1)),
    ("a long token", served.parse_guard, string(b"a" * 65) + u64(1)),
    ("a guard without a time", served.parse_guard, string(b"token")),
    ("a string longer than its reply", served.parse_guard, u32(60) + b"token"),
    ("a policy that is not JSON", served.parse_policy, string(b"{")),
    ("a policy that is nested", served.parse_policy, string(b"[" * 60000)),
    ("a policy that is a list", served.parse_policy, string(b"[]")),
    ("a quota that is true", served.parse_policy, string(b'{"quota": true}')),
    ("a quota below 0", served.parse_policy, string(b'{"quota": -1}')),
    ("a flag that is a word", served.parse_policy, string(b'{"append_only": "no"}')),
    ("software that is a number", served.parse_policy, string(b'{"software": 1}')),
    ("bytes behind a policy", served.parse_policy, string(b"{}") + b"x"),
    ("too few outcomes", lambda reply: served.parse_outcomes(reply, 2, ""), u32(1) + u32(0) + string(b"")),
    ("an outcome cut short", lambda reply: served.parse_outcomes(reply, 1, ""), u32(1) + u32(0) + u32(9)),
]


@pytest.mark.parametrize(("parse", "reply"), [each[1:] for each in HOSTILE], ids=[each[0] for each in HOSTILE])
def test_a_reply_that_makes_no_sense_is_refused(parse: Parse, reply: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse(reply)


PARSERS: list[Parse] = [
    served.parse_policy,
    served.parse_guard,
    lambda reply: served.parse_sizes(reply, 3),
    lambda reply: served.parse_shares(reply, 3),
    lambda reply: served.parse_outcomes(reply, 3, ""),
    inventory,
]


@pytest.mark.parametrize("parse", PARSERS)
@given(reply=st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(lambda data: u32(3) + data)))
def test_noise_is_refused_or_makes_sense(parse: Parse, reply: bytes) -> None:
    with suppress(ProtocolViolation):  # and nothing else
        parse(reply)


# ---- asked of a server -------------------------------------------------------------------------------------------


def hello(*names: str) -> bytes:
    pairs = b"".join(string(name.encode()) + string(b"1") for name in names)
    return packet(packets.VERSION, 3, pairs)


class Serving:
    """A server that offers these extensions; `reply` answers each call, given its name and body."""

    def __init__(self, reply: Callable[[str, bytes], bytes | tuple[int, str]], *offers: str) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self._reply = reply
        self.servers: list[ScriptedServer] = []
        self._hello = hello(*(offers or OWN))
        self.files = SftpFiles(self._stream, "/root", name="here")
        self.calls = Calls(self.files, "here")
        self.store = FolderStore(Server("here", bytes(20), b"seed"), self.files, random_bytes=bytes)

    def _stream(self) -> ScriptedServer:
        self.servers.append(ScriptedServer({packets.EXTENDED: self._answer}, hello=self._hello))
        return self.servers[-1]

    def _answer(self, number: int, body: bytes) -> Answer:
        name, end = packets.take_string(memoryview(body), 0)
        self.asked.append((name.decode(), body[end:]))
        reply = self._reply(*self.asked[-1])
        if isinstance(reply, tuple):
            return status(number, *reply)
        return packet(packets.EXTENDED_REPLY, number, reply)

    @property
    def kinds(self) -> list[int]:
        return [kind for server in self.servers for kind in server.requests]


def test_what_is_not_offered_is_not_asked() -> None:
    server = Serving(lambda *_: b"", "posix-rename@openssh.com")
    calls = server.calls
    assert (calls.policy(), calls.sizes([(SI, 0)]), calls.shares([SI]), calls.inventory()) == (None,) * 4
    assert calls.cancel([LeaseOf(SI, 0, Lease(b"", b"", 0))]) is None
    assert not calls.places
    assert call_for_guard(server.files, SI, ME, TOKEN, Look()) is None
    assert isinstance(server.files.do([Ask(POLICY)])[0], NotSupported)
    assert server.asked == []
    assert server.store.present([(SI, 0)]) == [0]  # by LSTAT


def test_another_version_of_an_extension_is_not_used() -> None:
    files = SftpFiles(
        lambda: ScriptedServer(hello=packet(packets.VERSION, 3, string(POLICY.encode()) + string(b"2"))), "/", name="x"
    )
    assert POLICY not in files.connect()


def test_a_call_is_one_request_among_others() -> None:
    server = Serving(lambda name, body: name.encode() + body, POLICY)
    answers = server.files.do([Stat("a"), Ask(POLICY, b"1"), Stat("b"), Ask("other@lafs"), Ask(POLICY, b"2")])
    assert [answers[1], answers[4]] == [b"policy@lafs1", b"policy@lafs2"]
    assert isinstance(answers[3], NotSupported)
    assert server.kinds == [packets.INIT, packets.LSTAT, packets.EXTENDED, packets.LSTAT, packets.EXTENDED]


def test_the_words_of_a_refusal_are_the_servers() -> None:
    server = Serving(lambda *_: (packets.OK + 4, "The quota is used up\n"), POLICY)
    [answer] = server.files.do([Ask(POLICY)])
    assert isinstance(answer, LafsError)
    assert answer.message == "the quota is used up\\n"
    [answer] = Serving(lambda *_: (packets.OK, ""), POLICY).files.do([Ask(POLICY)])
    assert answer == b""


def test_a_safe_call_is_made_again_where_the_connection_had_died_idle() -> None:
    server = Serving(lambda *_: string(b"{}"))
    assert server.calls.policy() is not None
    server.servers[0].hang_up()
    assert server.calls.policy() is not None
    assert len(server.servers) == 2
    server.servers[1].hang_up()
    with pytest.raises(ServerUnreachable):
        server.calls.cancel([LeaseOf(SI, 0, Lease(b"r" * 32, b"c" * 32, 0))])


def test_presence_is_asked_in_parts_of_at_most_8000() -> None:
    def reply(_: str, body: bytes) -> bytes:
        sort, count = body[0], packets.U32.unpack_from(body, 1)[0]
        if sort == 0:
            sizes = [packets.U32.unpack_from(body, 5 + 20 * i + 16)[0] for i in range(count)]
            return u32(count) + b"".join(u64(NONE if size % 3 == 0 else size) for size in sizes)
        return u32(count) + b"".join(u32(1) + u32(body[5 + 16 * i]) + u64(9) for i in range(count))

    server = Serving(reply)
    assert server.store.present([(SI, n) for n in range(20_001)]) == [n if n % 3 else None for n in range(20_001)]
    assert [packets.U32.unpack_from(body, 1)[0] for _, body in server.asked] == [8000, 8000, 4001]
    server.asked.clear()
    assert server.store.shares([bytes([n % 256]) * 16 for n in range(2500)]) == [
        frozenset({n % 256}) for n in range(2500)
    ]
    assert [packets.U32.unpack_from(body, 1)[0] for _, body in server.asked] == [1000, 1000, 500]
    assert server.store.shares([]) == []
    assert server.store.present([]) == []


def test_a_part_that_is_too_much_for_one_answer_is_asked_for_in_halves() -> None:
    def reply(_: str, body: bytes) -> bytes | tuple[int, str]:
        sis = [body[5 + 16 * i : 21 + 16 * i] for i in range(packets.U32.unpack_from(body, 1)[0])]
        if len(sis) > 3:
            return 4, "too much for one answer"
        if sis == [SI]:
            return 4, "this one is broken"
        if SI in sis:
            return 4, "one of these is broken"
        return u32(len(sis)) + b"".join(u32(1) + u32(si[0]) + u64(9) for si in sis)

    wanted = [bytes([n]) * 16 for n in range(20)]
    found = Serving(reply).store.shares([*wanted, SI])
    assert found[:20] == [frozenset({n}) for n in range(20)]
    assert isinstance(found[20], FileError)
    assert "broken" in found[20].message


def test_a_refusal_to_all_is_each_ones_answer() -> None:
    server = Serving(lambda *_: (3, "not for you"))
    found = server.store.present([(SI, 0), (SI, 1)])
    assert all(isinstance(each, FileDenied) for each in found)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda server: server.store.policy(),
        lambda server: server.store.present([(SI, 0)]),
        lambda server: server.store.shares([SI]),
        lambda server: list(server.store.inventory()),
        lambda server: server.calls.cancel([LeaseOf(SI, 0, Lease(b"r" * 32, b"c" * 32, 0))]),
        lambda server: call_for_guard(server.files, SI, ME, TOKEN, Look()),
    ],
    ids=["policy", "sizes", "shares", "inventory", "cancel", "guard"],
)
@pytest.mark.parametrize("reply", [b"", b"\xff" * 40, b"\0" * 300_000], ids=["empty", "noise", "long"])
def test_a_server_that_answers_nonsense_counts_as_silent(ask: Callable[[Serving], object], reply: bytes) -> None:
    with pytest.raises(ServerUnreachable, match="protocol"):
        ask(Serving(lambda *_: reply))


def test_an_inventory_comes_as_it_is_read() -> None:
    pages = [page([(si, 0, 1)], b"on" if si != SIS[9] else b"") for si in SIS[:10]]
    server = Serving(lambda *_: pages[len(server.asked) - 1])
    found = server.store.inventory()
    assert len(server.asked) == 1
    assert [next(found)[0] for _ in range(5)] == SIS[:5]
    assert len(server.asked) == 5
    assert [si for si, *_ in found] == SIS[5:10]
    assert all(name == INVENTORY for name, _ in server.asked)


def test_a_guard_is_taken_in_the_round_trip_of_what_is_looked_at_under_it() -> None:
    server = Serving(lambda *_: string(b"token") + u64(1_800_000_000))
    taken = call_for_guard(server.files, SI, ME, TOKEN, Look([Stat("a")], [FileRange("b", 0, 5)]))
    assert taken is not None
    token, now, seen = taken
    assert (token, now) == ("token", 1_800_000_000)
    assert [len(seen.answers), bytes(seen.data[0])] == [1, bytes(5)]  # type: ignore[arg-type]
    [(name, body)] = server.asked
    text, end = packets.take_string(memoryview(body), 17)
    assert (name, body[:17], end) == (GUARD, b"\0" + SI, len(body))
    assert Owner.parse(text) == ME
    assert tomllib.loads(text.decode())["token"] == TOKEN
    assert server.kinds[1:4] == [packets.EXTENDED, packets.LSTAT, packets.OPEN]
    assert call_for_guard(Serving(lambda *_: (4, "guard held")).files, SI, ME, TOKEN, Look()) is None
    with pytest.raises(FileDenied, match="read-only"):
        call_for_guard(Serving(lambda *_: (3, "this server is read-only")).files, SI, ME, TOKEN, Look())


def test_a_commit_tells_of_each_share_what_became_of_it() -> None:
    def reply(name: str, _: bytes) -> bytes:
        if name == GUARD:
            return string(b"token") + u64(1)
        return u32(3) + u32(0) + string(b"") + u32(4) + string(b"not newer: version 5 is there") + u32(0) + string(b"")

    server = Serving(reply)
    server.store.locks._server = Server(
        "here", bytes(20), b"seed", features=frozenset(["rename-keeps", "folder-rename-keeps"])
    )
    guard = server.store.guard(SI)
    assert isinstance(guard, ServedGuard)
    with pytest.raises(FileError, match=r"^not newer: version 5 is there$"):
        guard.commit([1, 2, 3], quarantine=False)
    assert guard.committed == {1, 3}
    guard.release()
    with pytest.raises(GuardLost):
        guard.touch()
    assert [name for name, _ in server.asked] == [GUARD, REPLACE, GUARD]


def test_openssh_offers_none_of_it() -> None:
    assert not set(OWN) & packets.parse_version(memoryview(version(posix_rename=b"1"))[9:])
    assert PRESENCE in packets.parse_version(memoryview(hello(PRESENCE))[9:])
