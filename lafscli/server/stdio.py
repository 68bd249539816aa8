"""One conversation on standard input and output, under the system's sshd: a forced command or a Subsystem."""

from __future__ import annotations

import binascii
from base64 import b64decode

from lafscli.server.ending import EndingStream, Stopped
from lafscli.server.keys import fingerprint
from lafscli.server.offer import Offer
from lafscli.server.record import Record

_LARGEST = 1 << 16


def converse(offer: Offer, record: Record, *, idle: float | None, connection: str | None, proofs: str | None) -> int:
    """Serve until the client hangs up or a signal comes; the exit code.

    `connection` and `proofs` are what sshd says in SSH_CONNECTION and SSH_USER_AUTH, for the log.
    """
    note = record.about(peer=_peer(connection), key=_key(proofs))
    offer.make_root()
    stream = EndingStream.standard(timeout=idle)
    note(f"serving {offer.root}")
    try:
        offer.serve(stream, who=_peer(connection), idle=idle, note=note)
    except Stopped:
        note("stopped in the middle of a request")
    if stream.signalled is not None:
        return 128 + stream.signalled
    note("closed")
    return 0


def _peer(connection: str | None) -> str:
    """`SSH_CONNECTION` is the client's address and port, then ours."""
    words = (connection or "").split()
    if len(words) < 2:
        return ""
    return f"[{words[0]}]:{words[1]}" if ":" in words[0] else f"{words[0]}:{words[1]}"


def _key(proofs: str | None) -> str:
    """The fingerprint of the key in the file of `SSH_USER_AUTH`, which sshd writes with `ExposeAuthInfo yes`."""
    try:
        with open(proofs or "", "rb") as file:
            lines = file.read(_LARGEST).splitlines()
        words = next(line.split() for line in lines if line.startswith(b"publickey "))
        return fingerprint(b64decode(words[2], validate=True))
    except (OSError, StopIteration, IndexError, binascii.Error):
        return ""
