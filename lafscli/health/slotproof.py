"""Read and prove whole mutable shares: tree, every block and salt; with the write cap the private key (spec 05 §5).

Signature, key and chain were proven by the look at a share already. Each share goes its own way, many at a time; memory
is what is under way, but for SDMF, whose share is one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lafscli.errors import CorruptShare, FileError, FileMissing, LafsError
from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.slot import Range
from lafscli.health.slots import SlotSeen
from lafscli.health.steps import Steps, side_by_side, wait
from lafscli.health.survey import Silences
from lafscli.health.underway import STRIPE, Sample
from lafscli.immutable.pipeline import Codec
from lafscli.mutable.survey import Found
from lafscli.primitives.encoding import Buffer
from lafscli.proof.slotkeys import is_private_key
from lafscli.storage.grid import Grid
from lafscli.storage.store import Progress, ShareRange, ShareStore

PROOF_DEPTH = 64 << 10
"""So many bytes of each container come along with the look; a share of most directories is all there then."""

_AT_ONCE = 24
_CODE_FROM = 32 << 10
"""Blocks from so many bytes on are hashed in codec threads."""


@dataclass(eq=False, slots=True)
class _Proof:
    """What became of one share: why it is no good, why its private key is none, bytes of its blocks that were read."""

    seen: SlotSeen
    one: Found
    numbers: Sequence[int]
    error: LafsError | None = None
    spoilt: str = ""
    looked: int = 0


class SlotProver:
    """Proves the shares that a look at slots has found."""

    def __init__(self, grid: Grid, codec: Codec, silences: Silences, sample: Sample, progress: Progress) -> None:
        self._grid = grid
        self._codec = codec
        self._silences = silences
        self._sample = sample
        self._progress = progress

    def prove(self, objects: Sequence[SlotSeen]) -> None:
        """Take from each object the shares that are no good, with the reason; note where the private key is none."""
        done = list(side_by_side((self._prove(proof) for seen in objects for proof in self._proofs(seen)), _AT_ONCE))
        for seen in objects:
            mine = [proof for proof in done if proof.seen is seen]
            bad = [proof for proof in mine if isinstance(proof.error, CorruptShare | FileError)]
            reasons = {id(proof.one): _reason(proof.error) for proof in bad}
            gone = [proof.one for proof in bad if isinstance(proof.error, FileMissing)]
            seen.map = seen.map.without([proof.one for proof in bad if proof.one not in gone], reasons)
            seen.map = replace(seen.map, found=tuple(one for one in seen.map.found if one not in gone))
            silent = {
                proof.one.place[0]: proof.error.message
                for proof in mine
                if proof.error is not None and proof not in bad
            }
            if silent:
                seen.map = seen.map.unheard(silent)
            seen.spoilt = {proof.one.place: proof.spoilt for proof in mine if proof.spoilt}
            seen.looked = sum(proof.looked for proof in mine if proof.error is None)
            seen.to_look = sum(_data_size(proof.one) for proof in mine if proof.error is None)

    def _proofs(self, seen: SlotSeen) -> Iterator[_Proof]:
        chosen: dict[int, Sequence[int]] = {}
        for one in seen.placed:
            count = one.share.prefix.num_segments
            if count not in chosen:  # the same segments of all shares of a version
                chosen[count] = self._sample.numbers(count)
            yield _Proof(seen, one, chosen[count])

    def _prove(self, proof: _Proof) -> Steps[_Proof]:
        one = proof.one
        name = one.place[0]
        reason = self._silences.reason(name)
        try:
            if reason is not None:
                raise LafsError(reason)
            yield from self._prove_share(proof)
        except LafsError as error:
            proof.error = error
            if not isinstance(error, CorruptShare | FileError) and reason is None:
                self._silences.note(name, error)
        finally:
            if one.share.header.layout.eof > PROOF_DEPTH:
                self._grid.submit(one.store, partial(_release, one))
        return proof

    def _prove_share(self, proof: _Proof) -> Steps[None]:
        one, share = proof.one, proof.one.share
        version = proof.seen.version
        if version is not None and share.prefix == version.prefix and share.header != version:
            raise CorruptShare("share header: its offsets are not those of its version")
        if share.tree_wanted is not None:
            tree = yield from self._fetch(one, share.tree_wanted)
            share.prove_tree(tree)
        cap = proof.seen.cap
        if isinstance(cap, MutableWriteCap):
            sealed = yield from self._fetch(one, share.enc_privkey_range)
            if not is_private_key(cap, sealed):
                proof.spoilt = "encrypted private key: it is not that of the write cap"
        for numbers in _runs(one, proof.numbers):
            if self._silences.late:
                return
            start, _ = share.block_range(numbers.start)
            length = sum(share.block_range(numbers.stop - 1)) - start
            data = yield from self._fetch(one, (start, length))
            if length < _CODE_FROM:
                _check(one, numbers, data)
            else:
                failed = yield from wait(self._codec.submit(partial(_check, one, numbers, data)))
                if failed is not None:
                    raise failed
            proof.looked += length

    def _fetch(self, one: Found, wanted: Range) -> Steps[Buffer]:
        held = one.held(wanted)
        if held is not None:
            return held
        keep = one.share.header.layout.eof > PROOF_DEPTH
        question = ShareRange(one.si, one.file.shnum, *wanted, keep, where=one.file.path)
        answers = yield from wait(self._grid.read(one.store, [question]))
        if isinstance(answers, LafsError):
            # whatever the server said, it was not about this share
            raise LafsError(answers.message) if isinstance(answers, FileError) else answers
        [data] = answers
        if isinstance(data, LafsError):
            raise data
        self._progress.server(one.place[0], wanted[1])
        self._progress.advance(wanted[1])
        if len(data) != wanted[1]:
            raise CorruptShare(f"the share ends before byte {sum(wanted)}")
        return data


def _check(one: Found, numbers: range, data: Buffer) -> None:
    start, _ = one.share.block_range(numbers.start)
    view = memoryview(data)
    for number in numbers:
        offset, length = one.share.block_range(number)
        one.share.check_block(number, view[offset - start : offset - start + length])


def _runs(one: Found, numbers: Sequence[int]) -> Iterator[range]:
    """Neighbours among the segments, as many as are read together."""
    most = max(1, STRIPE // max(1, one.share.prefix.block_size))
    start = end = -1
    for number in numbers:
        if number != end or number - start == most:
            if start >= 0:
                yield range(start, end)
            start = number
        end = number + 1
    if start >= 0:
        yield range(start, end)


def _data_size(one: Found) -> int:
    return one.share.prefix.share_data


def _reason(error: LafsError | None) -> str:
    assert error is not None
    return error.message if isinstance(error, CorruptShare) else f"the server can't read it: {error.message}"


def _release(one: Found, store: ShareStore) -> None:
    store.release(one.si, one.file.shnum)
