"""Capability strings (spec 00 §3, §4): every form, every rule that refuses, what each cap grants."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lafscli.errors import MalformedCap
from lafscli.formats.caps import (
    Cap,
    ChkCap,
    ChkVerifyCap,
    DirectoryCap,
    LitCap,
    MutableReadCap,
    MutableVerifyCap,
    MutableWriteCap,
    UnknownCap,
    parse,
    parse_strict,
)
from lafscli.primitives.encoding import b32encode

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tahoe_vectors_dev.json").read_text())["vectors"]
CONTAINERS = json.loads((Path(__file__).parent / "vectors" / "container_examples.json").read_text())

# spec 00 §4.1
WRITEKEY, READKEY, SI = "fs6ul2fju2fvb2cfx7gt6ngycm", "65ruo2zytr3uxnaxkptdoqkth4", "axxzm642zi4vozwfjdijoafbrm"
FINGERPRINT = "hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"
KEY, UEB = "aaaqeayeaudaocajbifqydiob4", "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"

HASH = b"\x84\x21\x08\x42\x10" * 6 + b"\x84\x21"  # what UEB spells

CHK_TAIL = f":{UEB}:3:10:1000"
WRITE_FORMS = {f"URI:{family}:{WRITEKEY}:{FINGERPRINT}" for family in ("SSK", "MDMF", "DIR2", "DIR2-MDMF")}
READ_FORMS = {f"URI:{family}-RO:{READKEY}:{FINGERPRINT}" for family in ("SSK", "MDMF", "DIR2", "DIR2-MDMF")}
MUTABLE_VERIFY_FORMS = {f"URI:{family}-Verifier:{SI}:{FINGERPRINT}" for family in ("SSK", "MDMF", "DIR2", "DIR2-MDMF")}
IMMUTABLE_FORMS = {
    "URI:LIT:nbswy3dp",
    "URI:DIR2-LIT:nbswy3dp",
    f"URI:CHK:{KEY}{CHK_TAIL}",
    f"URI:DIR2-CHK:{KEY}{CHK_TAIL}",
}
IMMUTABLE_VERIFY_FORMS = {f"URI:CHK-Verifier:{SI}{CHK_TAIL}", f"URI:DIR2-CHK-Verifier:{SI}{CHK_TAIL}"}
FORMS = sorted(WRITE_FORMS | READ_FORMS | MUTABLE_VERIFY_FORMS | IMMUTABLE_FORMS | IMMUTABLE_VERIFY_FORMS)
SECRETS = (WRITEKEY, READKEY, KEY, FINGERPRINT, UEB)


def refusal(text: str, **context: bool) -> str | None:
    """The error of a cap that is not accepted."""
    cap = parse(text, **context)
    assert isinstance(cap, UnknownCap), text
    assert str(cap) == text
    return cap.error


# ---- what is accepted ------------------------------------------------------------------------------------------


def test_there_are_eighteen_forms() -> None:
    assert len(FORMS) == 18


@pytest.mark.parametrize("text", FORMS)
def test_every_form_is_read_and_written_back(text: str) -> None:
    cap = parse(text)
    assert not isinstance(cap, UnknownCap)
    assert str(cap) == text
    assert parse_strict(text) == cap
    assert hash(parse(text)) == hash(cap)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("URI:LIT:nbswy3dp", LitCap(b"hello")),
        ("URI:LIT:", LitCap(b"")),
        (
            f"URI:CHK:{KEY}{CHK_TAIL}",
            ChkCap(bytes(range(16)), HASH, 3, 10, 1000),
        ),
        (f"URI:SSK:{KEY}:{UEB}", MutableWriteCap(False, bytes(range(16)), HASH)),
        (f"URI:MDMF-RO:{KEY}:{UEB}", MutableReadCap(True, bytes(range(16)), HASH)),
        (f"URI:DIR2-MDMF-Verifier:{KEY}:{UEB}", DirectoryCap(MutableVerifyCap(True, bytes(range(16)), HASH))),
        (
            f"URI:DIR2-CHK-Verifier:{KEY}{CHK_TAIL}",
            DirectoryCap(ChkVerifyCap(bytes(range(16)), HASH, 3, 10, 1000)),
        ),
    ],
)
def test_the_fields_of_a_cap(text: str, expected: Cap) -> None:
    assert parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_published_caps_round_trip(vector: dict[str, object]) -> None:
    text = str(vector["expected"])
    cap = parse_strict(text)
    assert str(cap) == text
    assert cap.kind == vector["kind"]
    if isinstance(cap, ChkCap):
        assert (cap.k, cap.n, cap.size) == (vector["k"], vector["n"], vector["length"])
    else:
        assert isinstance(cap, MutableWriteCap)


def test_storage_indexes_of_real_objects() -> None:
    for item in CONTAINERS["objects"]:
        cap = parse_strict(item["cap"])
        assert cap.storage_index is not None
        assert b32encode(cap.storage_index) == item["storage_index"]
        assert cap.abbreviation == item["storage_index"][:5]


@pytest.mark.parametrize("size", [1, 55, 56, 2**64, 10**30])
def test_any_size_from_one_byte(size: int) -> None:
    cap = parse(f"URI:CHK:{KEY}:{UEB}:1:1:{size}")
    assert isinstance(cap, ChkCap)
    assert cap.size == size


def test_leading_zeros_are_read_and_never_written() -> None:
    cap = parse(f"URI:CHK:{KEY}:{UEB}:03:0010:{'0' * 5000}1000")
    assert str(cap) == f"URI:CHK:{KEY}{CHK_TAIL}"


@pytest.mark.parametrize("extension", [":", ":3:131073", "::", ":ä \x00", ":\na"])
@pytest.mark.parametrize("form", sorted(f for f in FORMS if "MDMF" in f))
def test_the_extension_of_old_mdmf_caps_is_dropped(form: str, extension: str) -> None:
    cap = parse(form + extension)
    assert cap == parse(form)
    assert str(cap) == form


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("junk", ["\n", " ", "=", "A", "\0", "a\n", "ä"])
def test_junk_at_the_end_is_malformed(text: str, junk: str) -> None:
    assert (refusal(text + junk) or "").startswith("malformed cap URI:")


@pytest.mark.parametrize("form", sorted(f for f in FORMS if "MDMF" in f))
def test_a_final_newline_is_refused_even_in_an_extension(form: str) -> None:
    assert "newline" in (refusal(form + ":3:131073\n") or "")


@pytest.mark.parametrize("text", FORMS)
def test_junk_in_front_is_unknown_without_an_error(text: str) -> None:
    for junk in (" ", "\n", "x", "uri:", "-", "ro", "imm"):
        assert refusal(junk + text) is None


@pytest.mark.parametrize(
    "body",
    [
        "",
        f"{KEY}",
        f"{KEY}:{UEB}",
        f"{KEY}:{UEB}:3:10",
        f"{KEY}:{UEB}:3:10:1000:",
        f"{KEY}:{UEB}:3:10:1000:3:131073",
        f"{KEY[:-1]}:{UEB}:3:10:1000",
        f"{KEY}a:{UEB}:3:10:1000",
        f"{KEY[:-1]}b:{UEB}:3:10:1000",  # filler bits
        f"{KEY.upper()}:{UEB}:3:10:1000",
        f":{UEB}:3:10:1000",
        f"{KEY}:{UEB[:-1]}:3:10:1000",
        f"{KEY}:{UEB[:-1]}b:3:10:1000",
        f"{KEY}:{UEB}=:3:10:1000",
        f"{KEY}:{KEY}:3:10:1000",
        f"{UEB}:{UEB}:3:10:1000",
        f"{KEY}::3:10:1000",
        f"{KEY}:{UEB}::10:1000",
        f"{KEY}:{UEB}:0:10:1000",
        f"{KEY}:{UEB}:11:10:1000",
        f"{KEY}:{UEB}:3:257:1000",
        f"{KEY}:{UEB}:3:0:1000",
        f"{KEY}:{UEB}:3:10:0",
        f"{KEY}:{UEB}:3:10:-1",
        f"{KEY}:{UEB}:+3:10:1000",
        f"{KEY}:{UEB}:3:10:1_000",
        f"{KEY}:{UEB}:3:10: 1000",
        f"{KEY}:{UEB}:3:10:1e3",
        f"{KEY}:{UEB}:3:10:\u0661\u0660",
        f"{KEY}:{UEB}:3:10:²",
        f"{KEY}:{UEB}:3:10:" + "9" * 5000,
    ],
)
@pytest.mark.parametrize("prefix", ["URI:CHK:", "URI:CHK-Verifier:", "URI:DIR2-CHK:", "URI:DIR2-CHK-Verifier:"])
def test_malformed_chk_caps(prefix: str, body: str) -> None:
    assert (refusal(prefix + body) or "").startswith(f"malformed cap {prefix} ")


@pytest.mark.parametrize(
    "body",
    [
        "",
        ":",
        f"{WRITEKEY}",
        f"{WRITEKEY}:",
        f":{FINGERPRINT}",
        f"{WRITEKEY[:-1]}:{FINGERPRINT}",
        f"{WRITEKEY[:-1]}n:{FINGERPRINT}",
        f"{WRITEKEY}aa:{FINGERPRINT}",
        f"{WRITEKEY}:{FINGERPRINT[:-1]}",
        f"{WRITEKEY}:{FINGERPRINT[:-1]}r",
        f"{WRITEKEY}:{FINGERPRINT}3",
        f"{WRITEKEY}:{FINGERPRINT.upper()}",
        f"{FINGERPRINT}:{WRITEKEY}",
        f"{WRITEKEY}:{FINGERPRINT} :3",
    ],
)
@pytest.mark.parametrize("family", ["SSK", "MDMF", "DIR2", "DIR2-MDMF"])
@pytest.mark.parametrize("power", ["", "-RO", "-Verifier"])
def test_malformed_mutable_caps(family: str, power: str, body: str) -> None:
    assert (refusal(f"URI:{family}{power}:{body}") or "").startswith(f"malformed cap URI:{family}{power}: ")


@pytest.mark.parametrize("family", ["SSK", "DIR2"])
@pytest.mark.parametrize("power", ["", "-RO", "-Verifier"])
def test_sdmf_caps_have_no_extension(family: str, power: str) -> None:
    assert refusal(f"URI:{family}{power}:{WRITEKEY}:{FINGERPRINT}:3:131073") is not None


@pytest.mark.parametrize(
    "body", ["a", "aaa", "aaaaaa", "ab", "aaab", "aaaab", "aaaaaab", "NBSWY3DP", "nbswy3d0", "aa======", ":", "aa:"]
)
@pytest.mark.parametrize("prefix", ["URI:LIT:", "URI:DIR2-LIT:"])
def test_malformed_literal_caps(prefix: str, body: str) -> None:
    assert (refusal(prefix + body) or "").startswith(f"malformed cap {prefix} ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "URI",
        "URI:",
        "URI::",
        "URI:LIT",
        "uri:LIT:",
        "URI:lit:",
        "URI:LIT-RO:aa",
        "URI:CHK-RO:",
        "URI:DIR2-SSK:aa:aa",
        "URI:DIR2-LIT-Verifier:aa",
        "URI:NEW:aa",
        "x-future:rw:1",
        "ro.x-future:ro:1",
        "imm.",
        "ro.",
        "hello",
        "�",
        "URI:LIT aa:",
    ],
)
def test_unknown_caps_have_no_error_and_keep_their_text(text: str) -> None:
    assert refusal(text) is None
    assert refusal(text, deep_immutable=True) is None


# ---- prefixes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", FORMS)
def test_prefixes_are_checked_and_dropped(text: str) -> None:
    cap = parse(text)
    too_much = "must be deeply immutable" if text in WRITE_FORMS | READ_FORMS else None
    if text in WRITE_FORMS:
        assert refusal("ro." + text) == "must be read-only"
    else:
        assert parse("ro." + text) == cap
    for prefixed, context in (("imm." + text, False), (text, True), ("ro." + text, True), ("imm." + text, True)):
        if too_much:
            assert refusal(prefixed, deep_immutable=context) == too_much
        else:
            assert parse(prefixed, deep_immutable=context) == cap


@pytest.mark.parametrize("prefixes", ["ro.ro.", "ro.imm.", "imm.ro.", "imm.imm."])
def test_only_one_prefix_is_looked_at(prefixes: str) -> None:
    assert refusal(f"{prefixes}URI:LIT:aa") is None


def test_a_malformed_cap_is_malformed_behind_a_prefix_too() -> None:
    assert (refusal("ro.URI:LIT:a") or "").startswith("malformed cap URI:LIT:")


def test_an_unknown_cap_is_equal_to_its_text_whatever_is_wrong_with_it() -> None:
    write = sorted(WRITE_FORMS)[0]
    assert parse("imm." + write) == UnknownCap("imm." + write)
    assert parse(write, deep_immutable=True) == UnknownCap(write) != parse(write)


# ---- what is granted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kind"), [("SSK", "sdmf"), ("MDMF", "mdmf"), ("DIR2", "dir2"), ("DIR2-MDMF", "dir2-mdmf")]
)
def test_worked_attenuation(family: str, kind: str) -> None:
    write, read, verify = (
        parse_strict(f"URI:{family}{power}:{secret}:{FINGERPRINT}")
        for power, secret in (("", WRITEKEY), ("-RO", READKEY), ("-Verifier", SI))
    )
    assert (write.read_cap(), write.verify_cap()) == (read, verify)
    assert (read.read_cap(), read.verify_cap()) == (read, verify)
    assert (verify.read_cap(), verify.verify_cap()) == (verify, verify)
    for cap in (write, read, verify):
        assert cap.kind == kind
        assert cap.mutable
        assert cap.storage_index is not None
        assert b32encode(cap.storage_index) == SI
        assert cap.abbreviation == "axxzm"
        assert cap.is_directory == family.startswith("DIR2")
    assert [(cap.writable, cap.readable) for cap in (write, read, verify)] == [
        (True, True),
        (False, True),
        (False, False),
    ]


@pytest.mark.parametrize(("family", "kind"), [("CHK", "chk"), ("DIR2-CHK", "dir2-chk")])
def test_attenuation_of_chk(family: str, kind: str) -> None:
    cap = parse_strict(CONTAINERS["objects"][0]["cap"].replace("CHK", family))
    verify = cap.verify_cap()
    assert verify is not None
    assert str(verify).startswith(f"URI:{family}-Verifier:{CONTAINERS['objects'][0]['storage_index']}:")
    assert str(verify).split(":")[3:] == str(cap).split(":")[3:]
    assert cap.read_cap() is cap
    assert (verify.read_cap(), verify.verify_cap()) == (verify, verify)
    assert verify.storage_index == cap.storage_index
    assert [(c.kind, c.writable, c.mutable, c.readable) for c in (cap, verify)] == [
        (kind, False, False, True),
        (kind, False, False, False),
    ]


@pytest.mark.parametrize(
    ("text", "kind"), [("URI:LIT:aa", "lit"), ("URI:DIR2-LIT:aa", "dir2-lit"), ("URI:NEW:aa", "unknown")]
)
def test_literal_and_unknown_caps_have_no_shares(text: str, kind: str) -> None:
    cap = parse(text)
    assert (cap.kind, cap.verify_cap(), cap.storage_index, cap.abbreviation) == (kind, None, None, "")
    assert cap.read_cap() == cap
    assert not cap.writable
    assert not cap.mutable
    assert cap.readable == (kind != "unknown")


# ---- nothing leaks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", FORMS)
def test_repr_shows_no_key(text: str) -> None:
    for cap in (parse(text), parse("imm." + text), parse(text + "="), parse("x" + text)):
        shown = repr([cap]) + f"{cap!r}"
        for secret in (*SECRETS, "nbswy", "hello", "URI:"):
            assert secret not in shown
        assert repr(bytes(range(4)))[2:-1] not in shown


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t + "=",
        lambda t: t.replace("URI", "uri"),
        lambda t: "imm." + t + "\n",
        lambda t: "x" + t,
        lambda t: t + ":9:9:9:\n",
    ],
)
def test_strict_reading_raises_and_shows_nothing(text: str, spoil: object) -> None:
    spoilt = spoil(text)  # type: ignore[operator]
    with pytest.raises(MalformedCap) as caught:
        parse_strict(spoilt)
    seen: BaseException | None = caught.value
    while seen is not None:  # nor does any error that led to it
        for secret in (*SECRETS, "nbswy"):
            assert secret[:5] not in str(seen) + repr(seen)
        seen = seen.__cause__ or seen.__context__
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["ro.", "imm."])
def test_strict_reading_refuses_what_a_prefix_refuses(text: str) -> None:
    with pytest.raises(MalformedCap, match="must be"):
        parse_strict(text + sorted(WRITE_FORMS)[0])


def test_caps_are_values_that_do_not_change() -> None:
    cap = LitCap(b"hello")
    with pytest.raises(AttributeError):
        cap.content = b"other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(cap)) == cap


# ---- anything at all -------------------------------------------------------------------------------------------

pieces = st.lists(
    st.sampled_from(
        [
            "URI:",
            "CHK",
            "SSK",
            "MDMF",
            "DIR2",
            "LIT",
            "-",
            "RO",
            "Verifier",
            ":",
            "ro.",
            "imm.",
            "3",
            "10",
            "0",
            KEY,
            UEB,
            "a",
            "\n",
        ]
    )
    | st.text(max_size=3),
    max_size=10,
).map("".join)


@given(
    st.text(st.characters())
    | pieces
    | st.sampled_from(FORMS).flatmap(lambda f: st.integers(0, len(f)).map(lambda i: f[:i])),
    st.booleans(),
)
@example("\ud800", False)
@example("URI:CHK:\ud800", True)
def test_reading_never_raises_and_what_it_accepts_is_canonical(text: str, deep: bool) -> None:
    cap = parse(text, deep_immutable=deep)
    repr(cap)
    cap.read_cap()
    cap.verify_cap()
    assert cap.storage_index is None or len(cap.storage_index) == 16
    if isinstance(cap, UnknownCap):
        assert str(cap) == text
    else:
        assert parse(str(cap), deep_immutable=deep) == cap
        assert str(parse(str(cap))) == str(cap)
        assert not (deep and cap.mutable and cap.readable)
    if isinstance(parse(text), UnknownCap):
        with pytest.raises(MalformedCap):
            parse_strict(text)
    else:
        assert parse_strict(text) == parse(text)


key16, hash32 = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
encodings = st.integers(1, 256).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))
file_caps = st.one_of(
    st.builds(LitCap, st.binary(max_size=80)),
    *(
        st.builds(
            lambda s, h, kn, size, form=form: form(s, h, *kn, size), key16, hash32, encodings, st.integers(1, 2**70)
        )
        for form in (ChkCap, ChkVerifyCap)
    ),
    *(st.builds(form, st.booleans(), key16, hash32) for form in (MutableWriteCap, MutableReadCap, MutableVerifyCap)),
)


@given(file_caps | file_caps.map(DirectoryCap))
def test_every_cap_that_can_be_made_is_read_back(cap: Cap) -> None:
    assert parse(str(cap)) == cap
    verify = cap.verify_cap()
    assert verify is None or (verify.storage_index, verify.kind) == (cap.storage_index, cap.kind)
