"""Which versions of the slot could be recovered now, by what lies on all the disks (spec 10 §2.8a, §2.9).

Nothing of `mutable/` is used for it: shares are proved and decoded with `formats/` and `proof/` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lafscli.errors import LafsError
from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.container import share_folder
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.formats.slot import HEAD_SIZE, Header
from lafscli.primitives.encoding import b32encode
from lafscli.proof.slotmaker import encrypt_segment
from lafscli.proof.slots import Signatures, SlotShare, decode_segment
from tests.simulation.disk import File, Folder
from tests.simulation.wire import Host


class Lost(AssertionError):
    """Something was lost that must not be."""


@dataclass(frozen=True, slots=True)
class Found:
    """A good share on a disk. `placed`: it stands in place, or did until somebody moved it aside; else it is staged."""

    share: SlotShare
    data: bytes
    placed: bool


class Oracle:
    """Looks at the disks of all hosts, for one slot."""

    def __init__(self, hosts: Sequence[Host], cap: MutableWriteCap) -> None:
        self._hosts = hosts
        self._si = cap.storage_index
        self._readkey = cap.read_cap().readkey
        self._signatures = Signatures(cap.verify_cap())
        self._proved: dict[tuple[int, bytes], SlotShare | None] = {}
        self._found: dict[str, tuple[int, list[Found]]] = {}
        self._losses = -1
        self._contents: dict[Header, bytes] = {}

    def changed(self) -> bool:
        """Whether a container may have gone since this was asked last."""
        losses = sum(host.disk.losses for host in self._hosts)
        changed, self._losses = losses != self._losses, losses
        return changed

    def versions(self) -> dict[Header, dict[int, Found]]:
        """The recoverable ones, each with a share of each number; those alone of which a share is, or was, in place."""
        every: dict[Header, dict[int, Found]] = {}
        placed: set[Header] = set()
        for host in self._hosts:
            for one in self.on(host):
                every.setdefault(one.share.header, {})[one.share.shnum] = one
                if one.placed:
                    placed.add(one.share.header)
        return {head: shares for head, shares in every.items() if head in placed and len(shares) >= head.prefix.k}

    def best(self) -> tuple[Header, bytes]:
        """The highest recoverable version and its content; Lost if there is none."""
        versions = self.versions()
        if not versions:
            raise Lost("no version can be recovered")
        header = max(versions, key=lambda head: (head.prefix.seqnum, head.prefix.root_hash))
        content = self._contents.get(header)
        if content is None:
            content = self._contents[header] = self._decoded(header, versions[header])
        return header, content

    def on(self, host: Host) -> list[Found]:
        """All good shares on one disk."""
        known = self._found.get(host.name)
        if known is None or known[0] != host.disk.changes:
            known = self._found[host.name] = host.disk.changes, list(self._look(host))
        return known[1]

    # ---- inside

    def _look(self, host: Host) -> Iterator[Found]:
        disk = host.disk
        for placed, folder in [(True, share_folder(self._si)), *((False, path) for path in self._guards(host))]:
            try:
                names = list(disk.folder(folder).entries)
            except LafsError:
                continue
            for name in names:
                number = name.removeprefix("old.") if not placed else name
                if number.isdigit():
                    node = disk.opened(f"{folder}/{name}")
                    share = self._prove(int(number), node)
                    if share is not None:
                        yield Found(share, node.data, placed or name != number)

    def _guards(self, host: Host) -> Iterator[str]:
        name = b32encode(self._si)
        locks = host.disk.root.entries["locks"]
        assert isinstance(locks, Folder)
        for top, node in locks.entries.items():
            if (top == name or top.startswith(f".broken.{name}.")) and isinstance(node, Folder):
                yield from (f"locks/{top}/{inner}" for inner in node.entries)

    def _prove(self, shnum: int, file: File) -> SlotShare | None:
        key = shnum, file.data
        if key not in self._proved:
            self._proved[key] = self._proof(shnum, file.data)
        return self._proved[key]

    def _proof(self, shnum: int, data: bytes) -> SlotShare | None:
        try:
            container = MutableContainer.parse(data[:DATA_OFFSET], len(data))
            inner = data[DATA_OFFSET : DATA_OFFSET + container.data_length]
            share = SlotShare(self._signatures, shnum, inner[:HEAD_SIZE], len(inner))
            if share.tree_wanted is not None:
                offset, length = share.tree_wanted
                share.prove_tree(inner[offset : offset + length])
            for segment in range(share.prefix.num_segments):
                offset, length = share.block_range(segment)
                share.check_block(segment, inner[offset : offset + length])
        except LafsError:
            return None
        return share

    def _decoded(self, header: Header, shares: dict[int, Found]) -> bytes:
        prefix = header.prefix
        content = b""
        for segment in range(prefix.num_segments):
            blocks = {}
            for shnum, one in shares.items():
                offset, length = one.share.block_range(segment)
                blocks[shnum] = one.data[DATA_OFFSET + offset : DATA_OFFSET + offset + length]
            salt, ciphertext = decode_segment(prefix, segment, blocks)
            content += encrypt_segment(self._readkey, salt, ciphertext)
        return content
