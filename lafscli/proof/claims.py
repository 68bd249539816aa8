"""What a share says that it is a share of, for one whose cap nobody here knows (spec 02 §4-5).

A verify cap made of the share's own UEB proves the share against itself: that header, trees and blocks fit one
another. It can't tell whose the file is; whoever holds the cap finds out when reading.
"""

from __future__ import annotations

from lafscli.errors import CorruptShare
from lafscli.formats.caps import ChkVerifyCap
from lafscli.formats.chk import UEB_LIMIT, Layout, Sizes
from lafscli.formats.described import number, ueb_fields
from lafscli.primitives.encoding import Buffer
from lafscli.primitives.hashes import uri_extension_hash

_TREE_LIMIT = 256 << 20


def ueb_range(layout: Layout, share_size: int) -> tuple[int, int]:
    """Where in a share of at most that size the UEB and the number before it lie: offset and length, which may be
    longer than they are."""
    return layout.uri_extension, max(0, min(layout.length_size + UEB_LIMIT, share_size - layout.uri_extension))


def claimed_cap(si: bytes, layout: Layout, area: Buffer) -> ChkVerifyCap:
    """The cap of the file that a share claims to be of. `area`: what lies in `ueb_range`.

    CorruptShare where it makes no such claim: Tahoe and lafs always write it.
    """
    size = layout.length_size
    length = int.from_bytes(area[:size], "big")
    if len(area) < size or length >= UEB_LIMIT or length > len(area) - size:
        raise CorruptShare("UEB: the share ends before")
    ueb = bytes(area[size : size + length])
    fields = ueb_fields(ueb)
    named = ("needed_shares", "total_shares", "size", "segment_size")
    k, n, file_size, segment_size = (number(fields, key) for key in named)
    if k is None or n is None or file_size is None or segment_size is None:
        raise CorruptShare("UEB: it does not say of which file this is a share")
    if not 1 <= k <= n <= 256 or file_size < 1 or segment_size < 1:
        raise CorruptShare(f"UEB: {k} of {n} shares for {file_size} bytes can't be")
    # whoever stored it chose these numbers: they must not make us fetch without end
    tree = Sizes(k, n, file_size, segment_size).tree_size
    if tree > _TREE_LIMIT:
        raise CorruptShare(f"UEB: hash trees of {tree} bytes are not read on the word of a share")
    return ChkVerifyCap(si, uri_extension_hash(ueb), k, n, file_size)
