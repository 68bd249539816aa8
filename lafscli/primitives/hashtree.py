"""Merkle hash trees (spec 01 §4).

Nodes are numbered breadth first: root 0, children of i are 2i+1 and 2i+2. A tree over n leaves has w = pow2(n)
leaf places, numbered w-1 … 2w-2; those without a leaf hold fillers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from lafscli.errors import CorruptShare
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.hashes import merkle_filler, merkle_node

HASH_SIZE = 32


def width(leaf_count: int) -> int:
    """Leaf places of a tree: the smallest power of two that is at least `leaf_count` and 1."""
    return 1 << (leaf_count - 1).bit_length() if leaf_count > 1 else 1


def node_count(leaf_count: int) -> int:
    return 2 * width(leaf_count) - 1


def build(leaves: Sequence[bytes]) -> list[bytes]:
    """All nodes of the tree over `leaves`, in node order."""
    level = [*leaves, *(merkle_filler(i) for i in range(len(leaves), width(len(leaves))))]
    levels = [level]
    while len(level) > 1:
        level = [merkle_node(level[i], level[i + 1]) for i in range(0, len(level), 2)]
        levels.append(level)
    return [node for level in reversed(levels) for node in level]


def build_serialised(leaves: Buffer) -> bytes:
    """The serialised tree over leaf hashes that lie one after the other, without an object a node."""
    return b"".join(reversed(list(_levels(leaves))))


def root_of(leaves: Sequence[bytes]) -> bytes:
    return build(leaves)[0]


@lru_cache(maxsize=4096)
def chain(leaf: int, leaf_count: int) -> tuple[int, ...]:
    """Numbers of the nodes that tie `leaf` to the root: its sibling first, then upwards, without the root."""
    node = width(leaf_count) - 1 + leaf
    numbers = []
    while node:
        numbers.append(node + 1 if node & 1 else node - 1)
        node = (node - 1) >> 1
    return tuple(numbers)


def verify_full(serialised: Buffer, leaf_count: int, root: bytes, what: str = "hash tree") -> bytes:
    """The leaf hashes, joined, of a serialised tree if every node of it is right; else CorruptShare."""
    if len(serialised) != HASH_SIZE * node_count(leaf_count):
        raise CorruptShare(f"{what}: wrong length")
    tree = memoryview(serialised)
    if tree[:HASH_SIZE] != root:
        raise CorruptShare(f"{what}: wrong root")
    first = HASH_SIZE * (width(leaf_count) - 1)
    leaves = bytes(tree[first : first + HASH_SIZE * leaf_count])
    end = len(tree)
    for level in _levels(leaves):
        if tree[end - len(level) : end] != level:
            raise CorruptShare(f"{what}: a node does not fit the root")
        end -= len(level)
    return leaves


def _levels(leaves: Buffer) -> Sequence[bytes]:
    """The levels of the tree from the leaves (with fillers) up to the root, each joined."""
    count = len(leaves) // HASH_SIZE
    level = b"".join([leaves, *(merkle_filler(i) for i in range(count, width(count)))])
    levels = [level]
    while len(level) > HASH_SIZE:
        step = HASH_SIZE
        level = b"".join(
            [merkle_node(level[i : i + step], level[i + step : i + 2 * step]) for i in range(0, len(level), 2 * step)]
        )
        levels.append(level)
    return levels


class PartialTree:
    """A tree of which only the root is known at first; nodes are taken when they are tied to it."""

    def __init__(self, leaf_count: int, root: bytes) -> None:
        self._leaf_count = leaf_count
        self._nodes = {0: bytes(root)}

    def add(self, nodes: Mapping[int, bytes]) -> None:
        """Take all of `nodes`, or none: CorruptShare if one contradicts the tree or can't be tied to its root."""
        count = node_count(self._leaf_count)
        known = dict(self._nodes)
        pending: dict[int, bytes] = {}
        for number, value in nodes.items():
            if not 0 <= number < count:
                raise CorruptShare(f"hash tree: no node {number} in a tree over {self._leaf_count} leaves")
            if len(value) != HASH_SIZE:
                raise CorruptShare(f"hash tree: node {number} is not a hash")
            if number not in known:
                pending[number] = bytes(value)
            elif known[number] != value:
                raise CorruptShare(f"hash tree: node {number} contradicts the root")
        # a parent has a lower number than its children: by the time it is looked at they have all been
        for number in sorted({*pending, *_ancestors(pending)}, reverse=True):
            if number == 0 or number not in pending:
                continue
            sibling = number + 1 if number & 1 else number - 1
            other = pending.get(sibling, known.get(sibling))
            if other is None:
                raise CorruptShare(f"hash tree: node {number} is not tied to the root")
            parent = (number - 1) >> 1
            value = merkle_node(pending[number], other) if number & 1 else merkle_node(other, pending[number])
            expected = pending.get(parent, known.get(parent))
            if expected is None:
                pending[parent] = value
            elif expected != value:
                raise CorruptShare(f"hash tree: node {number} contradicts node {parent}")
        known.update(pending)
        self._nodes = known

    def node(self, number: int) -> bytes:
        """A node that was proven, given or not: for one that is not, KeyError."""
        return self._nodes[number]

    def leaf(self, position: int) -> bytes | None:
        """The hash of a leaf, if it is known (and therefore proven)."""
        return self._nodes.get(width(self._leaf_count) - 1 + position)

    def needed(self, position: int) -> set[int]:
        """Nodes still missing before the leaf at `position` can be proven; the leaf itself is not among them."""
        needed = set()
        for number in chain(position, self._leaf_count):
            sibling = number + 1 if number & 1 else number - 1
            if sibling in self._nodes:
                break
            if number not in self._nodes:
                needed.add(number)
        return needed


def _ancestors(numbers: Mapping[int, bytes]) -> set[int]:
    found: set[int] = set()
    for start in numbers:
        number = start
        while number:
            number = (number - 1) >> 1
            if number in found:
                break
            found.add(number)
    return found
