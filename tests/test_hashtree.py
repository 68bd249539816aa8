"""Merkle trees: spec 01 §4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafscli.errors import CorruptShare
from lafscli.primitives.hashes import merkle_filler, merkle_node
from lafscli.primitives.hashtree import PartialTree, build, build_serialised, chain, root_of, verify_full, width

COUNTS = [1, 2, 3, 4, 5, 7, 8, 9, 17]


def leaves_of(count: int) -> list[bytes]:
    return [bytes([i + 1]) * 32 for i in range(count)]


def test_root_of_three_leaves() -> None:
    root = root_of([b"\1" * 32, b"\2" * 32, b"\3" * 32])
    assert root.hex() == "c3a16fe5a278b42b9b46824bb793d0bb80bbe70f018cb21fd3d74ba1de43e1cc"


def test_small_trees_by_hand() -> None:
    assert build([]) == [merkle_filler(0)]
    assert build([b"a" * 32]) == [b"a" * 32]
    a, b, c = leaves_of(3)
    left, right = merkle_node(a, b), merkle_node(c, merkle_filler(3))
    assert build([a, b, c]) == [merkle_node(left, right), left, right, a, b, c, merkle_filler(3)]


def test_widths() -> None:
    assert [width(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 256)] == [1, 1, 2, 4, 4, 8, 8, 16, 256]


@pytest.mark.parametrize("count", [0, *COUNTS])
def test_serialised_tree_is_the_nodes_joined(count: int) -> None:
    leaves = leaves_of(count)
    assert build_serialised(b"".join(leaves)) == b"".join(build(leaves))


@pytest.mark.parametrize("count", COUNTS)
def test_chain_ties_each_leaf_to_the_root(count: int) -> None:
    nodes = build(leaves_of(count))
    for leaf in range(count):
        numbers = chain(leaf, count)
        assert len(numbers) == width(count).bit_length() - 1
        value = nodes[width(count) - 1 + leaf]
        for number in numbers:
            value = merkle_node(value, nodes[number]) if number % 2 == 0 else merkle_node(nodes[number], value)
        assert value == nodes[0]


@pytest.mark.parametrize("count", COUNTS)
def test_verify_full_gives_the_leaves(count: int) -> None:
    leaves = leaves_of(count)
    assert verify_full(build_serialised(b"".join(leaves)), count, root_of(leaves)) == b"".join(leaves)


@pytest.mark.parametrize("count", COUNTS)
def test_verify_full_refuses_any_changed_node(count: int) -> None:
    leaves = leaves_of(count)
    root = root_of(leaves)
    serialised = build_serialised(b"".join(leaves))
    for node in range(len(serialised) // 32):
        broken = bytearray(serialised)
        broken[32 * node + node % 32] ^= 1
        with pytest.raises(CorruptShare, match="block hashes"):
            verify_full(broken, count, root, "block hashes")


def test_verify_full_refuses_other_lengths_and_roots() -> None:
    serialised = build_serialised(b"".join(leaves_of(3)))
    root = serialised[:32]
    for wrong in (b"", serialised[:-1], serialised[:-32], serialised + bytes(32)):
        with pytest.raises(CorruptShare, match="length"):
            verify_full(wrong, 3, root)
    with pytest.raises(CorruptShare, match="root"):
        verify_full(serialised, 3, bytes(32))
    with pytest.raises(CorruptShare):
        verify_full(serialised, 4, bytes(32))
    # three leaves are not four, though the trees have one length
    with pytest.raises(CorruptShare, match="node"):
        verify_full(build_serialised(b"".join(leaves_of(4))), 3, root_of(leaves_of(4)))


@pytest.mark.parametrize("count", COUNTS)
def test_partial_tree_proves_each_leaf_with_what_it_says_it_needs(count: int) -> None:
    nodes = build(leaves_of(count))
    tree = PartialTree(count, nodes[0])
    for leaf in range(count):
        number = width(count) - 1 + leaf
        needed = tree.needed(leaf)
        assert needed <= set(chain(leaf, count))
        tree.add({n: nodes[n] for n in needed | {number}})
        assert tree.leaf(leaf) == nodes[number]
        assert tree.needed(leaf) == set()
    tree.add(dict(enumerate(nodes)))


def test_partial_tree_needs_nothing_twice() -> None:
    nodes = build(leaves_of(8))
    tree = PartialTree(8, nodes[0])
    assert tree.needed(0) == {8, 4, 2}
    tree.add({number: nodes[number] for number in (7, 8, 4, 2)})
    assert tree.needed(1) == set()
    assert tree.needed(2) == {10}
    assert tree.needed(7) == {13, 5}
    assert tree.leaf(2) is None


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_partial_tree_takes_all_or_nothing(count: int) -> None:
    """Whichever node of a chain is wrong, missing or too much, nothing is taken."""
    nodes = build(leaves_of(count))
    first = width(count) - 1
    good = {number: nodes[number] for number in (first, *chain(0, count))}
    bad = [{**good, number: bytes(32)} for number in good]
    bad += [{n: v for n, v in good.items() if n != number} for number in good if number != first]
    bad += [{**good, number: b"short"} for number in good]
    bad += [{**good, 2 * first + 1: bytes(32)}, {**good, -1: bytes(32)}, {**good, 0: bytes(32)}]
    for nodes_given in bad:
        tree = PartialTree(count, nodes[0])
        with pytest.raises(CorruptShare, match="hash tree"):
            tree.add(nodes_given)
        assert tree.leaf(0) is None
        assert tree.needed(0) == set(chain(0, count))
        tree.add(good)
        assert tree.leaf(0) == nodes[first]


def test_partial_tree_refuses_a_node_that_hangs_in_the_air() -> None:
    nodes = build(leaves_of(8))
    tree = PartialTree(8, nodes[0])
    good = {number: nodes[number] for number in (7, 8, 4, 2)}
    with pytest.raises(CorruptShare, match="node 13 is not tied"):
        tree.add({**good, 13: nodes[13]})
    # a good pair deep below an unknown parent is not tied either
    with pytest.raises(CorruptShare, match="not tied"):
        tree.add({13: nodes[13], 14: nodes[14]})
    tree.add(good)
    with pytest.raises(CorruptShare, match="contradicts"):
        tree.add({4: bytes(32)})


def test_partial_tree_refuses_nodes_below_its_leaves_and_short_ones() -> None:
    """A leaf may itself be the root of another tree: that one's nodes have no place here, though they fit."""
    below = leaves_of(2)
    nodes = build([root_of(below), *leaves_of(3)])
    tree = PartialTree(4, nodes[0])
    good = {3: nodes[3], 4: nodes[4], 2: nodes[2]}
    with pytest.raises(CorruptShare, match="no node 7 in a tree over 4 leaves"):
        tree.add({**good, 7: below[0], 8: below[1]})
    for value in (b"", nodes[4][:31], nodes[4] + b"x"):
        with pytest.raises(CorruptShare, match="node 4 is not a hash"):
            tree.add({**good, 4: value})
    tree.add(good)


@given(st.integers(1, 40), st.data())
def test_partial_tree_takes_any_good_set_that_is_tied(count: int, data: st.DataObject) -> None:
    nodes = build(leaves_of(count))
    chosen = data.draw(st.sets(st.integers(0, count - 1)))
    tree = PartialTree(count, nodes[0])
    tree.add({n: nodes[n] for leaf in chosen for n in (width(count) - 1 + leaf, *chain(leaf, count))})
    assert all(tree.leaf(leaf) == nodes[width(count) - 1 + leaf] for leaf in chosen)
