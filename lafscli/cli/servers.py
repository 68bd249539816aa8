"""server add, list, status, remove (CLI.md §3)."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.enrolling import address_options, connecting, enrolled, forgotten, grid_facts, tell
from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.text import columns, facts
from lafscli.config.servers import ServerRecord, check_name
from lafscli.config.settings import Config
from lafscli.errors import LafsError, NotHappy, Partial, ServerError, Unreachable, UsageError
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.text import human_size

if TYPE_CHECKING:
    from lafscli.storage.membership import Membership
    from lafscli.storage.store import Policy, ShareStore, Space


@command("server add")
@click.argument("name")
@click.argument("url")
@click.option("--readonly", is_flag=True, help="Take shares from it, give it none; writes nothing there.")
@address_options
def add(frame: Frame, name: str, url: str, **given: Any) -> None:
    """Add a server under a name.

    URL is sftp://[user@]host[:port]/absolute/path, sftp://host/~/relative or file:///path; host may be a Host of your
    ssh_config. It names the folder that contains shares/ (of a Tahoe node: NODEDIR/storage), which is made if absent.
    The server is connected and tried, and its identity is written there as server.toml, or read if it is there. It is
    entered in the list of the grid's servers, on more than half of which that is written: their majority decides about
    mutable files. A server that is on a list already brings its list with it, and nothing is written; one of another
    grid is refused. One that is --readonly, mutable=no or can't hold a guard has no say, and is not entered.
    """
    from lafscli.client.joining import entered
    from lafscli.health.members import changing_lists, keep_list

    config = frame.config()
    _free(config, check_name(name), None)
    record, theirs = enrolled(frame, config, name, url, **given)
    with changing_lists(config) as config:
        _free(config, name, record)
        listed = entered(config, record, theirs, connecting(frame))

        def change(table: dict[str, Any]) -> None:
            table.setdefault("servers", {})[name] = record.table()
            keep_list(table, listed.membership)

        config = config.edit(change)
    frame.connections.forget()
    document = describe(record)
    more = {"features": sorted(record.features)} | grid_facts(listed.membership)
    frame.out.show(document | more, facts(document))
    tell(frame, config, listed)


def _free(config: Config, name: str, record: ServerRecord | None) -> None:
    """Refuse a name that is taken, and a server that is there under another name."""
    if name in config.servers:
        raise UsageError(f"there is a server {name} already", hint=f"lafs server remove {name} forgets it")
    for other in config.servers.values() if record is not None else ():
        if record is not None and other.node_id == record.node_id:
            raise UsageError(f"this is the server {other.name}, which is there already")


def describe(record: ServerRecord) -> dict[str, Any]:
    """A server as `server list` tells it."""
    facts: dict[str, Any] = {
        "name": record.name,
        "url": record.url,
        "node_id": b32encode(record.node_id),
        "readonly": record.readonly,
    }
    return facts | ({"site": record.site} if record.site is not None else {})


@command("server list")
def list_(frame: Frame) -> None:
    """List the servers of this home."""
    servers = [describe(record) for record in frame.config().servers.values()]
    rows = [("NAME", "URL", "NODE ID", "", "SITE")]
    rows += [
        (each["name"], each["url"], each["node_id"], "read-only" if each["readonly"] else "", each.get("site", ""))
        for each in servers
    ]
    frame.out.show({"servers": servers}, columns(rows) if servers else "")
    if not servers:
        frame.out.tell("no server yet: lafs server add NAME URL")


@command("server status")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def status(frame: Frame, names: tuple[str, ...]) -> None:
    """Ask servers how they are.

    All servers unless NAMEs are given. Exit 0 when all answered, 8 when none did, 11 when some did not; the answer is
    given all the same.
    """
    client = frame.client_with_servers()
    records = [client.record(name) for name in names] or list(client.config.servers.values())
    wanted = {record.name for record in records}
    stores = [store for store in client.grid.stores if store.server.name in wanted]
    found: dict[str, dict[str, Any]] = {}
    known, newer = client.membership(), False

    def question(store: ShareStore) -> tuple[float, Space | None, Membership | None, Policy | None]:
        began = time.monotonic()
        store.present([(bytes(16), 0)])  # one round trip
        seconds, listed, policy = time.monotonic() - began, None, None
        with suppress(ServerError):  # a list that can't be used is no reason to call the server silent
            listed = store.membership()
        with suppress(ServerError):
            policy = store.policy()
        return seconds, store.space(), listed, policy

    for answer in client.grid.ask(question, stores):
        facts: dict[str, Any] = {"name": answer.store.server.name}
        if isinstance(answer.value, LafsError):
            facts |= {"reachable": False, "reason": answer.value.message}
            facts |= {"hint": answer.value.hint} if answer.value.hint else {}
        else:
            seconds, space, listed, policy = answer.value
            facts |= {"reachable": True, "latency_ms": round(seconds * 1000, 1)}
            if listed is not None:
                facts["epoch"] = listed.epoch
                newer = newer or known is None or (listed.grid == known.grid and listed.epoch > known.epoch)
            if space is not None:
                facts |= {"free": space.free, "total": space.total}
            if policy is not None:
                facts |= {"software": policy.software, "policy": asdict(policy)}
        barred = facts.get("policy", {}).get("read_only", False)
        facts |= {
            "writable": answer.store.server.writable and not barred,
            "features": sorted(answer.store.server.features),
        }
        found[answer.store.server.name] = facts
    servers = [found[record.name] for record in records]
    document = {"servers": servers} | grid_facts(known)
    frame.out.show(document, columns([("NAME", "", "LATENCY", "FREE", "TOTAL", ""), *map(_row, servers)]))
    for hint in dict.fromkeys(each["hint"] for each in servers if "hint" in each and not frame.settings.json):
        frame.out.hint(hint)
    if newer:
        frame.out.warn("servers have a newer list of the grid's servers than this home: nothing mutable is written")
        frame.out.hint("lafs grid import FILE, with what lafs grid export has written in a home that has it")
    if known is not None and known.earlier:
        frame.out.tell(f"{known.earlier_told}; lafs repair -r ends that")
    silent = [each for each in servers if not each["reachable"]]
    if len(silent) == len(servers):
        raise SystemExit(Unreachable.exit_code)
    if silent:
        raise SystemExit(Partial.exit_code)


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    if not found["reachable"]:
        return found["name"], "silent", "", "", "", found["reason"]
    room = [human_size(found[key]) if key in found else "?" for key in ("free", "total")]
    state, policy = "ok" if found["writable"] else "read-only", _policy_words(found.get("policy"))
    return found["name"], state, f"{found['latency_ms']:.0f} ms", *room, policy


def _policy_words(policy: dict[str, Any] | None) -> str:
    """The rules in force, in a few words; nothing of a server that has none."""
    if policy is None:
        return ""
    words = [key.replace("_", "-") for key in ("read_only", "append_only") if policy[key]]
    if policy["append_only"] and policy["history"]:
        words.append(f"history {policy['history']}")
    if policy["quota"] is not None:
        used = "?" if policy["used"] is None else human_size(policy["used"])
        words.append(f"quota {used} of {human_size(policy['quota'])}")
    if policy["reserve"]:
        words.append(f"reserve {human_size(policy['reserve'])}")
    return ", ".join([policy["software"] or "lafs serve", *words])


@command("server remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="Even when fewer servers than happy are left.")
def remove(frame: Frame, name: str, force: bool) -> None:
    """Forget a server; its shares stay there.

    Refused without --force when fewer servers would be left than the encoding's happy: files that were put would
    then lose happiness. Which files those are is not looked at. The server is taken off the list of the grid's servers,
    which is written to more than half of those that are left; where they don't answer that is refused too. With --force
    the list is changed all the same: what another writer put on the silent ones alone may be lost.
    """
    from lafscli.client.reaching import record_of

    config = frame.config()
    record = record_of(config, name)
    fewer = len(config.writable) - (not record.readonly)
    if not force and not record.readonly and fewer < config.encoding.happy:
        raise NotHappy(
            f"{fewer} servers would be left, and files are stored on at least {config.encoding.happy}",
            hint=f"add another server first, or lafs server remove --force {name}",
        )

    forgotten(frame, config, record, force=force)
    frame.out.show({"removed": name}, "")
    frame.out.tell(f"forgot {name}; its shares stay at {record.url}")
