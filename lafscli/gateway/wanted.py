"""What a request that changes something asks for beyond its path, and the answers that it gets."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import quote, urlsplit

from starlette.responses import RedirectResponse, Response

from lafscli.errors import CorruptShare
from lafscli.formats.caps import Cap, DirectoryCap, MutableWriteCap, UnknownCap
from lafscli.gateway import bodies
from lafscli.gateway.asked import Asked, Refusal
from lafscli.gateway.spool import Spool
from lafscli.primitives.ciphers import PrivateKey, load_private_key
from lafscli.tree.contents import Kind

TAKEN = "There was already a child by that name, and you asked me to not replace it."
UNLINKED = "/uri accepts only PUT, PUT?t=mkdir, POST?t=upload, and POST?t=mkdir"
_LONGEST_OFFSET = 19


def root_of(asked: Asked) -> DirectoryCap:
    """The directory in which a path begins."""
    if isinstance(asked.cap, DirectoryCap):
        return asked.cap
    raise Refusal(409 if asked.names else 400, "PUT below a file: no path leads into it")


def needed(asked: Asked, name: str) -> str:
    """A value that must be given."""
    value = asked.query.get(name, "")
    if not value:
        raise Refusal(400, f"{name}= is required")
    return value


def writable(cap: Cap) -> MutableWriteCap:
    """The mutable file that is to be written; a Refusal for anything else."""
    if isinstance(cap, MutableWriteCap):
        return cap
    if isinstance(cap, UnknownCap):
        raise Refusal(400, "PUT to an unknown object: this cap is of a kind that lafs does not know")
    if cap.mutable:
        raise Refusal(403, "PUT to a mutable file: replace or update requested with read-only cap")
    raise Refusal(400, "PUT to a file: append operation invoked on an immutable cap")


def offset_of(asked: Asked) -> int | None:
    """Where the body goes in a file that is there; None where it is to be all of it."""
    text = asked.query.get("offset")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_OFFSET):
        raise Refusal(400, "PUT to a mutable file: Invalid offset")
    return int(text)


def made_as(asked: Asked, usual: Kind | None = None) -> tuple[Kind | None, PrivateKey | None]:
    """Format (`usual` where none is asked for) and key of what is to be made."""
    kind, text = asked.kind() or usual, asked.query.get("private-key")
    if text is None:
        return kind, None
    if kind not in ("sdmf", "mdmf"):
        raise Refusal(400, "private-key= goes with a mutable format")
    try:
        der = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return kind, load_private_key(der)
    except (ValueError, binascii.Error, CorruptShare):
        raise Refusal(400, "private-key= must be the urlsafe base64 of an RSA key of 2048 bits in DER") from None


def directory_made_as(asked: Asked) -> tuple[Kind, PrivateKey | None]:
    """Format and key of a directory that is to be made."""
    if asked.t == "mkdir-immutable":
        return "chk", None
    kind, private = made_as(asked, "sdmf")
    if kind == "chk":
        raise Refusal(400, "a directory is SDMF or MDMF; t=mkdir-immutable makes immutable ones")
    return kind or "sdmf", private


def file_of(form: bodies.Form) -> Spool:
    """The file of a form that must have one."""
    if form.file is None:
        raise Refusal(400, "t=upload takes a multipart form with a field `file`")
    return form.file


# ---- answers -----------------------------------------------------------------------------------------------------


def cap_answer(cap: Cap, status: int = 200) -> Response:
    """The cap of what is stored."""
    return text_answer(str(cap), status)


def text_answer(text: str, status: int = 200) -> Response:
    """A text as Tahoe-LAFS sends it."""
    return Response(text.encode(), status, {"Content-Type": "text/html"})


def when_done(asked: Asked) -> str | None:
    """Where the client is sent afterwards; a Refusal for another site."""
    target = asked.query.get("when_done")
    if target is None:
        return None
    try:
        parts = urlsplit(target)
    except ValueError:
        parts = urlsplit("bad:")
    ours = asked.request.headers.get("host", "").lower()
    elsewhere = bool(parts.netloc and parts.netloc.lower() != ours) or parts.scheme not in ("", "http", "https")
    odd = (
        "\\" in target
        or not target.isprintable()
        or (not parts.netloc and (bool(parts.scheme) or target.startswith("//")))
    )
    if elsewhere or odd or not target.strip() or target != target.strip():
        raise Refusal(400, "when_done= must lead to this gateway")
    return target


def finished(asked: Asked, answer: Response, cap: Cap | None = None) -> Response:
    """The answer, or where the client is sent instead; `%(uri)s` in that is the cap."""
    target = when_done(asked)
    if target is None:
        return answer
    if cap is not None:
        target = target.replace("%(uri)s", quote(str(cap), safe=""))
    return RedirectResponse(target, 303)
