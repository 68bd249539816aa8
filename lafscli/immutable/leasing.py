"""Leases on shares that an upload finds already there (spec 05 §4.5, 06 §3)."""

from __future__ import annotations

from collections.abc import Sequence

from lafscli.errors import LafsError
from lafscli.storage.store import LeaseOf, ShareStore


def lease_found(items: Sequence[LeaseOf], store: ShareStore) -> list[bool | LafsError]:
    """In the server's worker: make our leases last longer, and add one where none is ours: somebody else may have put
    the share, and let it go one day. The error in its place where that failed."""
    answers = list(store.renew(items))
    missing = [index for index, answer in enumerate(answers) if answer is False]
    if missing:
        for index, answer in zip(missing, store.add_lease([items[index] for index in missing]), strict=True):
            answers[index] = answer
    return answers
