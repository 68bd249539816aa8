"""What an SFTP client is told of an error of the grid: a status and a line for people, never a cap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lafscli.errors import LafsError, NotFound, NotGranted
from lafscli.server.backend import FAILURE, NO_SUCH_FILE, PERMISSION_DENIED, Refused


def refusal(error: LafsError) -> Refused:
    """The status and the words for an error."""
    code = FAILURE
    if isinstance(error, NotFound):
        code = NO_SUCH_FILE
    elif isinstance(error, NotGranted):
        code = PERMISSION_DENIED
    return Refused(code, error.message)


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
