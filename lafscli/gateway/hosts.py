"""Who may ask: by which names the gateway goes, and from which pages of a browser things are changed.

A page of another site can make a browser send requests to the gateway, under a name of its own that leads to it too
(DNS rebinding), or across sites. Programs that are no browsers send none of these headers but Host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from lafscli.gateway.asked import Refusal

_CHANGING = ("PUT", "POST", "DELETE", "PATCH")
_OURSELVES = ("same-origin", "none")


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names of a gateway. `listening`: addresses and ports it listens at; `allowed`: further names, with a port or
    without (any port); `secure`: it speaks TLS itself."""

    listening: Sequence[tuple[str, int]]
    allowed: Sequence[str] = ()
    secure: bool = False

    def admit(self, request: Request) -> None:
        """A Refusal for a request under a foreign name, or one that would change something for another site."""
        given = request.headers.getlist("host")
        host = given[0].strip().lower() if len(given) == 1 else ""
        if not self._knows(host):
            raise Refusal(403, "the Host of this request is not a name of this gateway; --allow-host allows others")
        if request.method not in _CHANGING:
            return
        sites = request.headers.getlist("sec-fetch-site")
        known = (*self._origins(host), *(("null",) if _may_be_ours(request, sites) else ()))
        if any(origin.strip().lower() not in known for origin in request.headers.getlist("origin")):
            raise Refusal(403, "this request comes from a page of another site (Origin), and changes nothing here")
        if any(site.strip().lower() not in _OURSELVES for site in sites):
            raise Refusal(403, "this request comes from a page of another site, and changes nothing here")

    def _origins(self, host: str) -> tuple[str, ...]:
        # without TLS of our own there may be a proxy that has it
        return (f"https://{host}",) if self.secure else (f"http://{host}", f"https://{host}")

    def _knows(self, host: str) -> bool:
        name, port = _split(host, 443 if self.secure else 80)
        if not name:
            return False
        if host in self.allowed or name in self.allowed:
            return True
        return any(port == ours and _leads_to(name, address) for address, ours in self.listening)


def _may_be_ours(request: Request, sites: Sequence[str]) -> bool:
    """Whether a form of a page of ours may have sent this although its Origin is null: our pages tell nobody where they
    are. The browser says whose it is; without a secure context it does not, and what the form's token says counts."""
    return list(sites) == ["same-origin"] or (not sites and request.scope["path"].startswith("/page/"))


def _leads_to(name: str, address: str) -> bool:
    """Whether nobody else can have made this name lead to the address: addresses themselves, and localhost."""
    ours = _address(address)
    if ours is None:
        return name == address.lower()
    if ours.is_loopback and name in ("localhost", "127.0.0.1", "::1"):
        return True
    theirs = _address(name)
    if ours.is_unspecified:
        return theirs is not None or name == "localhost"
    return theirs == ours


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _split(host: str, usual: int) -> tuple[str, int]:
    """Name and port of a Host header; no name where it is none."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, str(usual)
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    elif ":" in name:
        return "", 0
    if not (port.isascii() and port.isdecimal() and len(port) < 6):
        return "", 0
    return name, int(port)
