"""server scan (CLI.md §3): every share that lies on a server, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.errors import LafsError, Partial
from lafscli.primitives.encoding import b32encode

if TYPE_CHECKING:
    from lafscli.storage.grid import Grid
    from lafscli.storage.store import ShareStore

_PAGE = 2000


@command("server scan")
@click.argument("name")
def scan(frame: Frame, name: str) -> None:
    """List every share on a server.

    One line a share: storage index, share number, size of its container in bytes; whosever it is. A server that is lafs
    serve tells them in one call; of any other all folders are listed, which takes four requests an object.
    """
    client = frame.client()
    client.record(name)
    [store] = [store for store in client.grid.stores if store.server.name == name]
    for page in _pages(client.grid, store):
        shares = [(b32encode(si), shnum, size) for si, shnum, size in page]
        if frame.settings.json:
            for si, shnum, size in shares:
                frame.out.show({"storage_index": si, "share": shnum, "size": size}, "")
        else:
            frame.out.write("".join(f"{si}  {shnum:>3}  {size:>12}\n" for si, shnum, size in shares))


def _pages(grid: Grid, store: ShareStore) -> Iterator[list[tuple[bytes, int, int]]]:
    """Some shares at a time; the next ones are on their way meanwhile. Partial where not all could be listed."""
    shares = grid.submit(store, lambda store: store.inventory()).result()

    def some(_: ShareStore) -> tuple[list[tuple[bytes, int, int]], LafsError | None]:
        page: list[tuple[bytes, int, int]] = []
        try:
            page.extend(islice(shares, _PAGE))
        except LafsError as error:
            return page, error
        return page, None

    any_told = False
    coming = grid.submit(store, some)
    while True:
        page, error = coming.result()
        if error is None and page:
            coming = grid.submit(store, some)
        if page:
            any_told = True
            yield page
        if error is not None:
            if not any_told:
                raise error
            raise Partial(f"server {store.server.name}: not every share could be listed: {error.message}") from error
        if not page:
            return
