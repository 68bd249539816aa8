"""Erasure code: spec 01 §7."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafscli.primitives.erasure import decode, encode


def content(length: int) -> bytes:
    return bytes(i * 7 + 1 & 0xFF for i in range(length))


def test_blocks_of_the_worked_example() -> None:
    """Spec 02 §8."""
    ciphertext = bytes.fromhex(
        "69a274f9768a1a437fd51b13cb402d0b0b1bbdd69414c91e9cc8f33de0b11172"
        "43a0d341b5a3f045bb524b5bf6b200329a8a5eaac154f3c7"
    )
    blocks = encode(3, 10, ciphertext)
    assert bytes(blocks[0]).hex() == "69a274f9768a1a437fd51b13cb402d0b0b1bbd"
    assert bytes(blocks[3]).hex() == "8967cbb99fe696b64a080372331e635a4bf0e4"


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 56, 57])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 3), (2, 2), (2, 3), (3, 5), (5, 5)])
def test_any_k_blocks_give_the_segment(k: int, n: int, length: int) -> None:
    segment = content(length)
    blocks = encode(k, n, segment)
    assert len(blocks) == n
    assert {len(block) for block in blocks} == {-(-length // k)}
    for chosen in itertools.permutations(range(n), k):
        assert decode(k, n, {number: blocks[number] for number in chosen}, length) == segment


@pytest.mark.parametrize("length", [1, 100, 101, 102, 4096])
def test_many_shares(length: int) -> None:
    segment = content(length)
    blocks = encode(101, 256, segment)
    assert decode(101, 256, {number: blocks[number] for number in range(155, 256)}, length) == segment


@settings(max_examples=50)
@given(st.data())
def test_decoding_into_a_buffer(data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 6))
    n = data.draw(st.integers(k, 9))
    segment = data.draw(st.binary(min_size=1, max_size=60))
    numbers = data.draw(st.sets(st.integers(0, n - 1), min_size=k, max_size=n))
    blocks = encode(k, n, segment)
    room = bytearray(b"\xee" * (len(segment) + 10))
    answer = decode(k, n, {number: blocks[number] for number in numbers}, len(segment), memoryview(room))
    assert answer == segment
    assert room == segment + b"\xee" * 10


def test_decoding_over_primary_blocks_that_lie_in_place() -> None:
    segment = content(300)
    blocks = encode(3, 10, segment)
    room = bytearray(300)
    view = memoryview(room)
    view[:100] = blocks[0]
    view[200:] = blocks[2]
    decode(3, 10, {0: view[:100], 2: view[200:], 8: blocks[8]}, 300, view)
    assert room == segment


def test_primary_blocks_are_slices_of_the_segment() -> None:
    """No copy, where no padding is needed."""
    segment = bytearray(content(100))
    blocks = encode(3, 10, segment)
    assert all(isinstance(block, memoryview) and block.obj is segment for block in blocks[:2])
    assert bytes(blocks[2]) == segment[68:] + b"\0\0"


def test_a_short_segment_fills_several_blocks_with_padding() -> None:
    assert [bytes(block) for block in encode(5, 5, b"abcdef")] == [b"ab", b"cd", b"ef", b"\0\0", b"\0\0"]
