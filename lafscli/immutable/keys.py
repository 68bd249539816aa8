"""The key of an immutable file: of its content and a secret (spec 02 §2), or random."""

from __future__ import annotations

from lafscli.formats.chk import Sizes
from lafscli.placement import Encoding
from lafscli.primitives import hashes
from lafscli.storage.source import Hashed, Source
from lafscli.storage.store import Progress

_CHUNK = 1 << 20


def key_tag(convergence: bytes, encoding: Encoding, size: int) -> bytes:
    """Of the hash whose first 16 bytes are the convergent key of a file of so many bytes. It is the same for all that
    are as large as the largest segment or larger."""
    sizes = Sizes.plan(encoding.k, encoding.n, size, encoding.segment_size)
    return hashes.convergence_tag(convergence, encoding.k, encoding.n, sizes.segment_size)


def convergent_key(plain: Source, tag: bytes, progress: Progress) -> bytes:
    """16 bytes. Takes a pass over the content where that was not hashed as it came. `plain`: of known size, at its
    start, and so again afterwards. SourceChanged when it has become shorter."""
    known = plain.digest(tag) if isinstance(plain, Hashed) else None
    if known is not None:
        return known[:16]
    left = plain.size or 0
    progress.start("hash", left)
    hasher = hashes.Hasher.tagged(tag)
    buffer = memoryview(bytearray(min(_CHUNK, left)))
    while left:
        count = plain.readinto(buffer[: min(left, buffer.nbytes)])
        if not count:
            raise plain.changed()
        hasher.update(buffer[:count])
        left -= count
        progress.advance(count)
    plain.rewind()
    return hasher.digest()[:16]
