"""What a client is told of an error of the grid: a line for people, never a cap; over SFTP, with a status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lafscli.errors import CannotTell, LafsError, NotFound, NotGranted, RolledBack
from lafscli.server.backend import FAILURE, NO_SUCH_FILE, PERMISSION_DENIED, Refused
from lafscli.tree.contents import NoServers


def said_of(error: LafsError) -> str:
    """The words for an error. Which servers are silent stands in the hint alone: without it the message sounds as if
    shares were lost."""
    tells = isinstance(error, (CannotTell, NoServers)) and not isinstance(error, RolledBack)
    return f"{error.message}; {error.hint}" if tells and error.hint else error.message


def refusal(error: LafsError) -> Refused:
    """The status and the words for an error."""
    code = FAILURE
    if isinstance(error, NotFound):
        code = NO_SUCH_FILE
    elif isinstance(error, NotGranted):
        code = PERMISSION_DENIED
    return Refused(code, said_of(error))


@contextmanager
def refusing(note: Callable[[str], None], what: str) -> Iterator[None]:
    """Errors of the grid that happen inside are refusals; those that are no answer to the question are noted."""
    try:
        yield
    except LafsError as error:
        refused = refusal(error)
        if refused.code == FAILURE:
            hint = f" ({error.hint})" if error.hint else ""
            note(f"{what} failed: {error.message}{hint}")
        raise refused from error
