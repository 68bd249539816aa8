"""The table of spec 08 §2, row by row: a request and the exact answer."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lafscli.formats.caps import DirectoryCap, parse
from lafscli.gateway.verbs import MOST_SDMF
from tests.gateways import Answer, Gateway, multipart, quoted, small_grid
from tests.grids import content

FILE = content(5000, 1)
SMALL = b"in its cap"
UNKNOWN = "ro.URI:FUTURE:x"
FUTURE = (
    "GET unknown URI type: can only do t=info and t=json, not t={}.\n"
    "Using a webapi server that supports a later version of Tahoe may help."
)
NOBODY_KNOWS = "link: can't be linked: a cap of an unknown format, of which nobody can tell what it grants"
TAKEN = "There was already a child by that name, and you asked me to not replace it."
GONE = "URI:CHK:aaaaaaaaaaaaaaaaaaaaaaaaaa:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:2:4:9000"


@dataclass
class World:
    """A gateway, and objects by the names that the rows of the table use in braces."""

    gateway: Gateway
    caps: dict[str, str]

    def target(self, text: str) -> str:
        """`{d}/x` as a target."""
        return "/uri/" + re.sub(r"\{(\w+)\}", lambda found: quote(self.caps[found[1]], safe=""), text)

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        return self.gateway.ask(method, self.target(target), body, **headers)

    def want(self, method: str, target: str, body: bytes | str = b"") -> str:
        return self.gateway.want(method, self.target(target), body.encode() if isinstance(body, str) else body)

    def json(self, target: str) -> Any:
        return json.loads(self.want("GET", f"{target}?t=json"))

    def names(self, target: str) -> list[str]:
        return list(self.json(target)[1]["children"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Gateway(small_grid(tmp_path_factory.mktemp("http")), "-v") as gateway:
        made = World(gateway, {"gone": GONE, "unknown": UNKNOWN, "bad": "garbage"})
        caps = made.caps
        caps["file"] = gateway.want("PUT", "/uri", FILE)
        caps["small"] = gateway.want("PUT", "/uri", SMALL)
        caps["mut"] = gateway.want("PUT", "/uri?format=SDMF", b"mutable")
        caps["d"] = gateway.want("POST", "/uri?t=mkdir")
        caps["dro"] = str(parse(caps["d"]).read_cap())
        caps["mutro"] = str(parse(caps["mut"]).read_cap())
        caps["mutv"] = str(parse(caps["mut"]).verify_cap())
        caps["fileverify"] = str(parse(caps["file"]).verify_cap())
        for name in ("file", "small", "mut"):
            made.want("PUT", f"{{d}}/{name}?t=uri", caps[name])
        made.want("PUT", "{d}/%C3%A9%20%C3%BC.txt", b"named")
        caps["imm"] = gateway.want(
            "POST",
            "/uri?t=mkdir-immutable",
            json.dumps({"f": ["filenode", {"ro_uri": caps["file"], "metadata": {"a": 1}}]}).encode(),
        )
        yield made


# ---- reading: no row changes anything

Row = tuple[str, str, dict[str, str], int, dict[str, str], bytes | str | None]
PLAIN, HTML, BYTES = "text/plain; charset=utf-8", "text/html", "application/octet-stream"

READING: list[Row] = [
    ("GET", "{file}", {}, 200, {"content-type": BYTES, "content-length": "5000", "accept-ranges": "bytes"}, FILE),
    ("GET", "{small}", {}, 200, {"content-length": str(len(SMALL))}, SMALL),
    ("GET", "{mut}", {}, 200, {"cache-control": "no-cache"}, b"mutable"),
    ("GET", "{mutro}", {}, 200, {}, b"mutable"),
    ("GET", "{d}/file", {}, 200, {}, FILE),
    ("GET", "{d}/%C3%A9%20%C3%BC.txt", {}, 200, {"content-type": PLAIN}, b"named"),
    ("GET", "{d}/e%CC%81%20u%CC%88.txt", {}, 200, {}, b"named"),
    ("GET", "{imm}/f", {}, 200, {"cache-control": "private, max-age=31536000, immutable"}, FILE),
    ("GET", "{d}/nix", {}, 404, {"content-type": PLAIN}, "nix: no such file or directory"),
    ("GET", "{d}/nix/nix", {}, 404, {}, "nix: no such file or directory"),
    ("GET", "{d}/file/x", {}, 400, {}, "Files have no children: file: is a file, not a directory"),
    ("GET", "{file}/x", {}, 400, {}, "this is the cap of a file: no path leads into it"),
    ("GET", "{d}//file", {}, 400, {}, "The webapi does not allow empty pathname components, i.e. a double slash"),
    ("GET", "{d}/%ff", {}, 400, {}, "a path must be percent-encoded UTF-8"),
    ("GET", "{bad}", {}, 400, {}, FUTURE.format("")),
    ("GET", "{unknown}", {}, 400, {}, FUTURE.format("")),
    ("GET", "{mutv}", {}, 400, {}, FUTURE.format("")),
    ("GET", "{gone}", {}, 410, {"content-type": PLAIN}, None),
    (
        "GET",
        "{file}",
        {"Range": "bytes=10-19"},
        206,
        {"content-range": "bytes 10-19/5000", "content-length": "10"},
        FILE[10:20],
    ),
    ("GET", "{file}", {"Range": "bytes=4990-"}, 206, {"content-range": "bytes 4990-4999/5000"}, FILE[4990:]),
    ("GET", "{file}", {"Range": "bytes=-7"}, 206, {"content-range": "bytes 4993-4999/5000"}, FILE[-7:]),
    ("GET", "{file}", {"Range": "bytes=4990-9999"}, 206, {"content-range": "bytes 4990-4999/5000"}, FILE[4990:]),
    ("GET", "{file}", {"Range": "bytes=-9999"}, 206, {"content-range": "bytes 0-4999/5000"}, FILE),
    ("GET", "{file}", {"Range": f"bytes=4990-{10**30}"}, 206, {"content-range": "bytes 4990-4999/5000"}, FILE[4990:]),
    ("GET", "{file}", {"Range": f"bytes={10**30}-"}, 416, {"content-range": "bytes */5000"}, None),
    ("GET", "{file}", {"Range": f"bytes=-{10**30}"}, 206, {"content-range": "bytes 0-4999/5000"}, FILE),
    ("GET", "{file}", {"Range": "bytes=5000-"}, 416, {"content-range": "bytes */5000"}, "First beyond end of file"),
    ("GET", "{file}", {"Range": "bytes=6000-6001"}, 416, {"content-range": "bytes */5000"}, None),
    ("GET", "{file}", {"Range": "bytes=-0"}, 416, {}, None),
    ("GET", "{file}", {"Range": "bytes=0-1,5-6"}, 200, {}, FILE),
    ("GET", "{file}", {"Range": "bytes=9-5"}, 200, {}, FILE),
    ("GET", "{file}", {"Range": "lines=1-2"}, 200, {}, FILE),
    ("GET", "{mut}", {"Range": "bytes=3-4"}, 206, {"content-range": "bytes 3-4/7"}, b"ab"),
    ("HEAD", "{file}", {}, 200, {"content-length": "5000", "content-type": BYTES}, b""),
    ("HEAD", "{gone}", {}, 200, {"content-length": "9000"}, b""),
    ("HEAD", "{mut}", {}, 200, {"content-length": "7"}, b""),
    ("HEAD", "{d}/small", {}, 200, {"content-length": str(len(SMALL))}, b""),
    ("HEAD", "{d}/nix", {}, 404, {}, b""),
    ("HEAD", "{d}?t=json", {}, 200, {"content-type": PLAIN}, b""),
    ("GET", "{file}?filename=a.png", {}, 200, {"content-type": "image/png", "content-disposition": "-"}, FILE),
    (
        "GET",
        "{file}?filename=a.html",
        {},
        200,
        {"content-type": "text/html; charset=utf-8", "content-disposition": 'attachment; filename="a.html"'},
        FILE,
    ),
    ("GET", "{file}?filename=a.svg", {}, 200, {"content-disposition": 'attachment; filename="a.svg"'}, FILE),
    (
        "GET",
        "{file}?filename=a.txt&save=true",
        {},
        200,
        {"content-type": PLAIN, "content-disposition": 'attachment; filename="a.txt"'},
        FILE,
    ),
    (
        "GET",
        "{file}?filename=%C3%A9%22.txt&save=T",
        {},
        200,
        {"content-disposition": "attachment; filename=\"?_.txt\"; filename*=UTF-8''%C3%A9%22.txt"},
        FILE,
    ),
    ("GET", "{file}?filename=a.tar.gz", {}, 200, {"content-type": "application/gzip", "content-encoding": "-"}, FILE),
    ("GET", "{file}?save=maybe", {}, 400, {}, "invalid save= argument: 'maybe': it must be true or false"),
    ("GET", "{file}?t=uri", {}, 200, {"content-type": PLAIN}, "{file}"),
    ("GET", "{d}/file?t=uri", {}, 200, {}, "{file}"),
    ("GET", "{d}?t=readonly-uri", {}, 200, {}, "{dro}"),
    ("GET", "{mut}?t=readonly-uri", {}, 200, {}, "{mutro}"),
    ("GET", "{file}?t=readonly-uri", {}, 200, {}, "{file}"),
    ("GET", "{file}?t=x", {}, 400, {}, "GET file: bad t=x"),
    ("GET", "{d}?t=x", {}, 400, {}, "GET directory: bad t=x"),
    ("GET", "{d}?t=x&t=json", {}, 400, {}, "GET directory: bad t=x"),
    ("GET", "{d}?t=JSON", {}, 400, {}, "GET directory: bad t=JSON"),
    ("GET", "{unknown}?t=x", {}, 400, {}, FUTURE.format("x")),
    ("GET", "{bad}?t=json", {}, 200, {"content-type": PLAIN}, '[\n "unknown",\n {}\n]\n'),
    ("GET", "{mutv}?t=json", {}, 200, {}, '[\n "unknown",\n {}\n]\n'),
    ("GET", "{unknown}?t=json", {}, 200, {}, '[\n "unknown",\n {\n  "ro_uri": "ro.URI:FUTURE:x"\n }\n]\n'),
    ("GET", "?uri={file}", {}, 302, {"location": "/uri/{%file}"}, b""),
    ("GET", "?uri={d}&t=json", {}, 302, {"location": "/uri/{%d}?t=json"}, b""),
    ("GET", "", {}, 400, {}, "GET /uri requires uri="),
    ("GET", "?uri=garbage", {}, 400, {}, "uri= is no cap of a kind that lafs knows"),
    ("OPTIONS", "{file}", {}, 501, {}, None),
    ("PATCH", "{file}", {}, 501, {}, None),
]


@pytest.mark.parametrize("row", READING, ids=lambda row: " ".join([row[0], row[1] or "/uri", *row[2].values()]))
def test_reading(world: World, row: Row) -> None:
    method, target, sent, status, wanted, body = row
    check(world, world.ask(method, target, **sent), status, wanted, body)


def check(world: World, answer: Answer, status: int, wanted: dict[str, str], body: bytes | str | None) -> None:
    got, headers, data = answer
    assert (got, data if got >= 400 else b"") == (status, data if got >= 400 else b""), data
    for name, value in wanted.items():
        value = re.sub(r"\{%(\w+)\}", lambda found: quote(world.caps[found[1]], safe=""), value)
        assert headers.get(name, "-") == value, name
    if isinstance(body, str):
        body = re.sub(r"\{(\w+)\}", lambda found: world.caps.get(found[1], found[0]), body).encode()
    if body is not None:
        assert data == body
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"]


def test_the_other_ways_to_name_an_object(world: World) -> None:
    file, d = (quote(world.caps[name], safe="") for name in ("file", "d"))
    ask = world.gateway.ask
    assert ask("GET", f"/cap/{file}")[2] == FILE
    assert ask("GET", f"/uri/{world.caps['file']}")[2] == FILE, "colons may come as they are"
    assert ask("GET", f"/uri/{d}/")[0] == 200
    for target in (f"/file/{file}/@@named=/a.txt", f"/named/{file}/a.txt", f"/named/{file}/x/a.txt"):
        status, headers, data = ask("GET", target)
        assert (status, headers["content-type"], data) == (200, PLAIN, FILE)
        assert ask("HEAD", target)[1]["content-length"] == "5000"
    assert ask("GET", f"/named/{d}/a")[0] == 400
    for target in ("/file", "/file/", "/named/?t=json", "/file//x"):
        assert ask("GET", target)[0] in (400, 404), target
    assert ask("GET", "/robots.txt")[0] == ask("GET", "/uri2")[0] == 404


def test_etag(world: World) -> None:
    status, headers, _ = world.ask("GET", "{file}")
    tag = headers["etag"]
    assert tag == f'"{parse(world.caps["file"]).verify_cap()!s}"'.replace(
        world.caps["fileverify"], world.caps["fileverify"].split(":")[2] + "-"
    )
    for given in (tag, tag.strip('"'), "*", f'"x", W/{tag}'):
        status, headers, data = world.ask("GET", "{d}/file", If_None_Match=given)
        assert (status, data, headers["etag"]) == (304, b"", tag)
    assert world.ask("GET", "{file}", If_None_Match='"other"')[0] == 200
    assert world.ask("GET", "{file}", Range="bytes=1-2", If_Range=tag)[2] == FILE[1:3]
    assert world.ask("GET", "{file}", Range="bytes=1-2", If_Range='"other"')[2] == FILE
    assert world.ask("GET", "{mut}", Range="bytes=1-2", If_Range='"other"')[2] == b"mutable"
    for name in ("small", "mut"):
        assert "etag" not in world.ask("GET", f"{{{name}}}")[1]
        assert world.ask("GET", f"{{{name}}}", If_None_Match="*")[0] == 200


def test_json(world: World) -> None:
    """Spec 08 §3."""
    caps = world.caps
    file = {"mutable": False, "format": "CHK", "size": 5000, "ro_uri": caps["file"], "verify_uri": caps["fileverify"]}
    mutable = {
        "mutable": True,
        "format": "SDMF",
        "ro_uri": caps["mutro"],
        "rw_uri": caps["mut"],
        "verify_uri": caps["mutv"],
    }
    assert world.json("{file}") == ["filenode", file]
    assert world.json("{small}") == [
        "filenode",
        {"mutable": False, "format": "CHK", "size": len(SMALL), "ro_uri": caps["small"]},
    ]
    assert world.json("{mut}") == ["filenode", mutable | {"size": 7}]
    assert world.json("{gone}")[1]["size"] == 9000
    readonly = {name: value for name, value in mutable.items() if name != "rw_uri"}
    assert world.json("{mutro}") == ["filenode", readonly | {"size": 7}]
    sort, info = world.json("{imm}")
    assert sort == "dirnode"
    assert info == {
        "mutable": False,
        "ro_uri": caps["imm"],
        "verify_uri": str(parse(caps["imm"]).verify_cap()),
        "children": {"f": ["filenode", file | {"metadata": {"a": 1}}]},
    }
    sort, info = world.json("{d}")
    children = info.pop("children")
    assert (sort, info) == (
        "dirnode",
        {"mutable": True, "ro_uri": caps["dro"], "rw_uri": caps["d"], "verify_uri": str(parse(caps["d"]).verify_cap())},
    )
    times = children["mut"][1].pop("metadata")["tahoe"]
    assert set(times) == {"linkcrtime", "linkmotime"}
    assert children["mut"] == ["filenode", mutable], "the size of a mutable file is not told in a listing"
    assert world.json("{d}/file")[1]["metadata"] == children["file"][1]["metadata"]
    assert "rw_uri" not in world.json("{dro}")[1]["children"]["mut"][1]
    text = world.want("GET", "{d}?t=json")
    assert text == json.dumps(json.loads(text), indent=1) + "\n"


# ---- writing: each row in the directory {w}, which it leaves to the next

PUTS: list[tuple[str, str, bytes | str, int, bytes | str | None, str | None]] = [
    # method, target, body, status, answer, what the target is then
    ("PUT", "{w}/a/b/new.txt", b"one", 201, "URI:LIT:n5xgk", "one"),
    ("PUT", "{w}/a/b/new.txt", b"two", 200, "URI:LIT:or3w6", "two"),
    ("PUT", "{w}/a/b/new.txt?replace=only-files", b"six", 200, None, "six"),
    ("PUT", "{w}/a/b/new.txt?replace=false", b"no", 409, TAKEN, "six"),
    ("PUT", "{w}/a/b/new.txt?replace=bogus", b"no", 400, "invalid replace= argument: 'bogus'", "six"),
    ("PUT", "{w}/a/b/new.txt/below", b"no", 409, "a/b/new.txt: is a file, not a directory", None),
    ("PUT", "{w}/a/b", b"no", 400, "PUT to a directory", None),
    ("PUT", "{w}", b"no", 400, "PUT to a directory", None),
    ("PUT", "{w}/x?format=foo", b"no", 400, "Unknown format: foo, I know CHK, SDMF, MDMF", None),
    (
        "PUT",
        "{w}/x?mutable=perhaps",
        b"no",
        400,
        "invalid mutable= argument: 'perhaps': it must be true or false",
        None,
    ),
    ("PUT", "{w}/x?t=bogus", b"no", 400, "PUT to a file: bad t=bogus", None),
    ("PUT", "{w}/a%2Fb", b"no", 400, "a/b: a name in a directory can't contain a slash", None),
    ("PUT", "{w}/%2e%2e", b"no", 400, "'..' can't be the name of anything", None),
    ("PUT", "{dro}/x", b"no", 403, "the directory can't be changed with its read cap", None),
    ("PUT", "{imm}/x", b"no", 403, "the directory is immutable: nothing can be added, replaced or removed", None),
    ("PUT", "{file}", b"no", 400, "PUT to a file: append operation invoked on an immutable cap", None),
    ("PUT", "{mutro}", b"no", 403, "PUT to a mutable file: replace or update requested with read-only cap", None),
    ("PUT", "{file}/x", b"no", 409, "PUT below a file: no path leads into it", None),
    ("PUT", "{mut}?replace=false", b"no", 409, TAKEN, "mutable"),
    ("PUT", "{mut}", b"changed", 200, "{mut}", "changed"),
    ("PUT", "{mut}?offset=2", b"XYZ", 200, "{mut}", "chXYZed"),
    ("PUT", "{mut}?offset=7", b"++", 200, "{mut}", "chXYZed++"),
    ("PUT", "{mut}?offset=99", b"no", 400, "PUT to a mutable file: Invalid offset: the file has 9 bytes", "chXYZed++"),
    ("PUT", "{mut}?offset=-1", b"no", 400, "PUT to a mutable file: Invalid offset", "chXYZed++"),
    ("PUT", "{mut}?offset=x", b"no", 400, "PUT to a mutable file: Invalid offset", "chXYZed++"),
    ("PUT", "{mut}", b"mutable", 200, "{mut}", "mutable"),
    ("PUT", "{w}/link?t=uri", "{file}", 200, "{file}", None),
    ("PUT", "{w}/link?t=uri", "{small}\r\n", 200, "{small}", SMALL.decode()),
    ("PUT", "{w}/link?t=uri&replace=false", "{file}", 409, TAKEN, SMALL.decode()),
    ("PUT", "{w}/a?t=uri&replace=only-files", "{file}", 409, TAKEN, None),
    ("PUT", "{w}/link?t=uri", "{mutv}", 400, "link: can't be linked: a verify cap can't be a child", SMALL.decode()),
    ("PUT", "{w}/link?t=uri", "", 400, "link: a child needs a cap", SMALL.decode()),
    ("PUT", "{w}/link?t=uri", "garbage", 400, NOBODY_KNOWS, None),
    ("PUT", "{w}/future?t=uri", UNKNOWN, 200, UNKNOWN, None),
    ("PUT", "{w}?t=uri", "{file}", 400, "PUT t=uri takes a name in the directory", None),
    ("PUT", "{w}/p/q/link?t=uri", "{small}", 200, "{small}", SMALL.decode()),
    ("PUT", "{w}/m?format=mdmf", b"one", 201, None, "one"),
    ("PUT", "{w}/m?format=CHK", b"two", 200, None, "two"),
    ("PUT", "{w}/m?offset=1", b"XX", 200, None, "tXX"),
    ("PUT", "{w}/fresh?offset=1", b"XX", 201, None, "XX"),
    (
        "PUT",
        "{w}/link?offset=1",
        b"no",
        400,
        "PUT to a file: append operation invoked on an immutable cap",
        SMALL.decode(),
    ),
    ("POST", "{w}/a/b?t=mkdir", "", 200, None, None),
    ("PUT", "{w}/m?t=mkdir", "", 400, "PUT to a file: bad t=mkdir", None),
    ("POST", "{w}/m?t=mkdir", "", 400, "POST to file: bad t=mkdir", None),
    ("POST", "{w}?t=mkdir&name=m", "", 409, TAKEN, None),
    ("POST", "{w}?t=mkdir", "", 200, "{w}", None),
    (
        "POST",
        "{w}/x?t=mkdir&format=chk",
        "",
        400,
        "a directory is SDMF or MDMF; t=mkdir-immutable makes immutable ones",
        None,
    ),
    ("PUT", "{w}/x/", "content", 400, "PUT to a directory", None),
    ("POST", "{w}/x?t=bogus", "", 404, "x: no such file or directory", None),
    ("POST", "{w}?t=bogus", "", 400, "POST to a directory with bad t=bogus", None),
    ("POST", "{file}?t=bogus", "", 400, "POST to file: bad t=bogus", None),
    ("POST", "{w}/link?t=set_children", "{{}}", 400, "POST to file: bad t=set_children", None),
    ("DELETE", "{w}/fresh", "", 200, "URI:LIT:lbma", None),
    ("DELETE", "{w}/fresh", "", 404, "fresh: no such file or directory", None),
    ("DELETE", "{w}", "", 400, "DELETE takes a path below a directory", None),
    ("DELETE", "{file}", "", 400, "DELETE takes a path below a directory", None),
    ("DELETE", "{dro}/file", "", 403, "the directory can't be changed with its read cap", None),
    ("DELETE", "{w}/a/", "", 200, None, None),
    ("DELETE", "{w}/a", "", 404, "a: no such file or directory", None),
    ("POST", "{w}?t=rename&from_name=link&to_name=moved", "", 200, "thing moved", None),
    ("POST", "{w}?t=rename&from_name=moved&to_name=moved", "", 200, "thing moved", None),
    ("POST", "{w}?t=rename&from_name=moved&to_name=m&replace=false", "", 409, TAKEN, None),
    ("POST", "{w}?t=rename&from_name=moved&to_name=p&replace=only-files", "", 409, TAKEN, None),
    ("POST", "{w}?t=rename&from_name=nix&to_name=m", "", 404, "nix: no such file or directory", None),
    ("POST", "{w}?t=rename&from_name=m", "", 400, "to_name= is required for rename", None),
    ("POST", "{w}?t=rename&to_name=m", "", 400, "from_name= is required", None),
    (
        "POST",
        "{w}?t=rename&from_name=m&to_name=a%2Fb",
        "",
        400,
        "a/b: a name in a directory can't contain a slash",
        None,
    ),
    ("POST", "{w}?t=relink&from_name=moved&to_dir={w}/p/q&to_name=deep", "", 200, "thing moved", None),
    ("POST", "{w}?t=relink&from_name=p&to_dir={w}/p/q", "", 400, "p: can't be moved into itself", None),
    ("POST", "{w}?t=relink&from_name=m&to_dir={w}/nix", "", 404, "nix: no such file or directory", None),
    ("POST", "{w}?t=relink&from_name=m&to_dir={file}", "", 400, "to_dir is not a directory", None),
    (
        "POST",
        "{w}?t=relink&from_name=m&to_dir={dro}",
        "",
        403,
        "the directory can't be changed with its read cap",
        None,
    ),
    ("POST", "{w}?t=unlink&name=future", "", 200, "thing unlinked", None),
    ("POST", "{w}?t=delete&name=future", "", 404, "future: no such file or directory", None),
    ("POST", "{w}?t=unlink", "", 400, "name= is required", None),
    ("POST", "{w}?t=uri&name=again&uri={small}", "", 200, "{small}", None),
    ("POST", "?t=bogus", "", 400, "/uri accepts only PUT, PUT?t=mkdir, POST?t=upload, and POST?t=mkdir", None),
    ("PUT", "?t=bogus", "", 400, "/uri accepts only PUT, PUT?t=mkdir, POST?t=upload, and POST?t=mkdir", None),
    ("PUT", "?t=mkdir-immutable", "", 400, "/uri accepts only PUT, PUT?t=mkdir, POST?t=upload, and POST?t=mkdir", None),
]


def test_writing(world: World) -> None:
    world.caps["w"] = world.gateway.want("PUT", "/uri?t=mkdir")
    for method, target, body, status, answer, after in PUTS:
        if isinstance(body, str):
            body = body.format(**world.caps).encode()
        got = world.ask(method, target, body)
        try:
            check(world, got, status, {"content-type": HTML if status < 300 else PLAIN}, answer)
            if after is not None:
                assert world.want("GET", target.partition("?")[0]) == after
        except AssertionError as error:
            raise AssertionError(f"{method} {target}: {error}") from error
    assert world.ask("PUT", "{w}/m", b"no", Content_Range="bytes 0-1/9")[0] == 400
    assert world.names("{w}") == ["again", "m", "p"]
    assert world.names("{w}/p/q") == ["deep", "link"]
    assert world.json("{w}/m")[1]["format"] == "MDMF", "a mutable file keeps its cap"


def test_what_can_not_be_written_is_refused_before_it_is_sent(world: World) -> None:
    for target in ("{dro}/x", "{mutro}", "{imm}/x"):
        lines = [f"PUT {world.target(target)} HTTP/1.1", f"Host: 127.0.0.1:{world.gateway.port}", "Connection: close"]
        with socket.create_connection(("127.0.0.1", world.gateway.port), timeout=30) as client:
            client.sendall("\r\n".join([*lines, "Expect: 100-continue", "Content-Length: 5", "", ""]).encode())
            assert client.makefile("rb").readline() == b"HTTP/1.1 403 Forbidden\r\n"


def test_what_would_take_much_memory_is_refused(world: World) -> None:
    world.caps["s"] = world.gateway.want("PUT", "/uri?format=sdmf", b"mutable")
    body = bytes(MOST_SDMF + 1)
    for target in ("?format=sdmf", "{s}"):
        assert world.ask("PUT", target, body)[0] == 413, target
    assert world.ask("PUT", "{s}?offset=7", body[:-2])[0] == 413
    assert world.want("GET", "{s}") == "mutable"
    assert world.ask("POST", "?t=mkdir-with-children", b'{"a":[' + b"[]," * 500_000 + b"[]]}")[0] == 413


def test_unlinked_files_and_directories(world: World) -> None:
    want, caps = world.gateway.want, world.caps
    assert want("PUT", "/uri", FILE) == caps["file"], "the same content has the same cap"
    assert want("PUT", "/uri?format=chk", FILE) == caps["file"]
    assert want("PUT", "/uri", b"") == "URI:LIT:"
    assert want("PUT", "/uri?mutable=true", b"x").startswith("URI:SSK:")
    assert want("PUT", "/uri?format=MDMF", b"x").startswith("URI:MDMF:")
    assert want("PUT", "/uri?t=mkdir&format=mdmf").startswith("URI:DIR2-MDMF:")
    assert want("POST", "/uri?t=mkdir-immutable", b"{}") == want("POST", "/uri?t=mkdir-immutable") == "URI:DIR2-LIT:"
    body, sort = multipart(FILE)
    assert want("POST", "/uri?t=upload", body, Content_Type=sort) == caps["file"]
    assert world.gateway.ask("POST", "/uri?t=upload")[0] == 400


def test_children_in_json(world: World) -> None:
    caps = world.caps
    given: dict[str, Any] = {
        "f": ["filenode", {"rw_uri": caps["file"]}],
        "m": [
            "whatever",
            {"rw_uri": caps["mut"], "ro_uri": caps["mutro"], "metadata": {"k": [1], "tahoe": {"linkcrtime": 1}}},
        ],
        "u": ["unknown", {"ro_uri": UNKNOWN}],
    }
    caps["c"] = world.want("POST", "?t=mkdir-with-children", json.dumps(given))
    children = world.json("{c}")[1]["children"]
    assert children["f"][1]["metadata"] == {}, "what a directory is made with has the metadata that was given"
    assert children["m"][1]["metadata"] == {"k": [1], "tahoe": {"linkcrtime": 1}}
    assert children["u"] == ["unknown", {"ro_uri": UNKNOWN, "metadata": {}}]
    assert children["m"][1]["rw_uri"] == caps["mut"]
    made = world.want("POST", "{c}/x/y?t=mkdir-with-children", json.dumps(given))
    assert world.want("POST", "{c}/x/y?t=mkdir-with-children", "{}") == made, "one that is there is left as it is"
    for t in ("mkdir-with-children", "mkdir-immutable"):
        taken = world.ask("POST", f"{{c}}/x?t={t}&name=y", b"{}")
        assert (taken[0], taken[2]) == (409, TAKEN.encode()), "it does not get these children"
    assert world.names("{c}/x/y") == ["f", "m", "u"]
    assert world.want("POST", "{c}/i?t=mkdir-immutable", json.dumps({"f": given["f"]})).startswith("URI:DIR2-CHK:")
    assert world.ask("POST", "{c}/j?t=mkdir-immutable", json.dumps(given).encode())[0] == 400, "a mutable child"
    for t in ("set_children", "set-children"):
        assert world.want("POST", f"{{c}}?t={t}", json.dumps({"n": given["f"]})) == "Okay so I did it."
    assert set(world.json("{c}/n")[1]["metadata"]["tahoe"]) == {"linkcrtime", "linkmotime"}
    more = json.dumps({"f": given["m"], "new": given["m"]}).encode()
    assert world.ask("POST", "{c}?t=set_children&replace=false", more)[::2] == (409, TAKEN.encode())
    assert world.ask("POST", "{c}?t=set_children&overwrite=false", more)[0] == 409
    assert world.ask("POST", "{c}?t=set_children&replace=only-files", json.dumps({"x": given["f"]}).encode())[0] == 409
    assert world.names("{c}") == ["f", "i", "m", "n", "u", "x"], "all of it or nothing"
    assert world.json("{c}/f")[1]["format"] == "CHK"
    world.want("POST", "{c}?t=set_children", more)
    assert world.json("{c}/f")[1]["format"] == "SDMF"
    for body in (
        b"no json",
        b"[]",
        b'{"x": 1}',
        b'{"x": ["f", {}]}',
        b'{"x": ["f", {"rw_uri": 1}]}',
        b'{"": ["f", {"ro_uri": "URI:LIT:"}]}',
        b'{"a/b": ["f", {"ro_uri": "URI:LIT:"}]}',
        b'{"..": ["f", {"ro_uri": "URI:LIT:"}]}',
        b'{"x": ["f", {"ro_uri": "URI:LIT:", "metadata": {"a": NaN}}]}',
        b"[" * 100000,
    ):
        assert world.ask("POST", "{c}?t=set_children", body)[0] == 400, body[:60]
        assert world.ask("POST", "?t=mkdir-with-children", body)[0] == 400, body[:60]


def test_uploads_by_forms(world: World) -> None:
    caps = world.caps
    caps["up"] = world.gateway.want("PUT", "/uri?t=mkdir")

    def post(target: str, content: bytes, filename: str = "up.bin", **fields: str) -> Answer:
        body, sort = multipart(content, filename, **fields)
        return world.ask("POST", target, body, Content_Type=sort)

    large = content(400_000, 3) + b"\r\n--=b" * 1000
    assert post("{up}?t=upload", large)[0] == 200
    assert world.gateway.ask("GET", world.target("{up}/up.bin"))[2] == large
    assert post("{up}", b"two", "x.txt", t="upload", name="n.txt")[::2] == (200, b"URI:LIT:or3w6")
    assert post("{up}?t=upload&replace=false", b"three", "n.txt")[0] == 409
    assert post("{up}?t=upload", b"", "")[0] == 200
    assert post("{up}?t=upload", b"m", "mut", format="SDMF")[0] == 200
    cap = world.json("{up}/mut")[1]["rw_uri"]
    assert post("{up}?t=upload", b"again", "mut")[::2] == (200, cap.encode())
    assert post("{up}/mut?t=upload", b"once more")[::2] == (200, cap.encode())
    assert world.want("GET", "{up}/mut") == "once more"
    assert post("{up}/new?t=upload", b"x")[0] == 404
    assert post("{up}?t=upload", b"x", "a/b")[0] == 400
    assert world.names("{up}") == ["mut", "n.txt", "unknown-filename", "up.bin"]
    status, headers, _ = post("{up}?t=upload", b"x", "done", when_done="/uri/x?y=z")
    assert (status, headers["location"]) == (303, "/uri/x?y=z")
    status, headers, _ = post("?t=upload&when_done=/uri/%25(uri)s", b"x")
    assert (status, headers["location"]) == (303, "/uri/URI%3ALIT%3Apa")
    own = f"http://127.0.0.1:{world.gateway.port}/x"
    assert post("{up}?t=upload", b"x", "done", when_done=own)[1]["location"] == own
    for elsewhere in (
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "javascript:alert(1)",
        "http:/x",
        " /x",
        "",
    ):
        assert post("{up}?t=upload", b"x", "never", when_done=elsewhere)[0] == 400, elsewhere
    assert "never" not in world.names("{up}")
    form = b"t=rename&from_name=done&to_name=%C3%A9"
    assert world.ask("POST", "{up}", form, Content_Type="application/x-www-form-urlencoded")[::2] == (
        200,
        b"thing moved",
    )
    assert "é" in world.names("{up}")
    for body, sort in (
        (b"--x\r\nbroken", "multipart/form-data; boundary=x"),
        (b"--x--", "multipart/form-data"),
        (b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\ncut", "multipart/form-data; boundary=x"),
    ):
        assert world.ask("POST", "{up}?t=upload", body, Content_Type=sort)[0] == 400, body


def test_a_name_with_a_slash_that_another_program_stored_can_be_reached(world: World) -> None:
    """It is one name, as %2F; two names are another path."""
    from lafscli.formats.dirtable import Table
    from lafscli.primitives.encoding import netstring

    table = Table(mutable=False)
    table.link("aXb", parse("URI:LIT:n5xgk"), metadata={})
    entry = table.serialise().replace(b"3:aXb,", b"3:a/b,")
    assert netstring(b"a/b") in entry
    world.caps["slashed"] = f"URI:DIR2-LIT:{world.gateway.want('PUT', '/uri', entry).removeprefix('URI:LIT:')}"
    assert world.want("GET", "{slashed}/a%2Fb") == "one"
    assert world.ask("GET", "{slashed}/a/b")[0] == 404
    assert world.names("{slashed}") == ["a/b"]


def test_given_private_keys(world: World) -> None:
    from base64 import urlsafe_b64encode

    from lafscli.primitives.ciphers import make_private_key

    key = urlsafe_b64encode(make_private_key().der).decode()
    ask = world.gateway.ask
    assert ask("PUT", f"/uri?t=mkdir&private-key={key}")[2].startswith(b"URI:DIR2:"), "directories are mutable"
    assert ask("PUT", f"/uri?format=sdmf&private-key={key}", b"x")[0] == 400, "there is something of that key"
    assert ask("PUT", f"/uri?private-key={key}", b"x")[0] == 400
    assert ask("PUT", "/uri?format=sdmf&private-key=AAAA", b"x")[0] == 400


def test_a_damaged_directory_is_no_mistake_of_the_gateway(world: World) -> None:
    no_table = DirectoryCap(parse("URI:LIT:n5xgk"))  # type: ignore[arg-type]
    for target in ("", "/x", "?t=json"):
        status, _, data = world.gateway.ask("GET", quoted(str(no_table)) + target)
        assert status == 422, data


def test_other_views_are_there(world: World) -> None:
    """Their own tests say what is in them."""
    ask = world.gateway.ask
    assert json.loads(ask("GET", "/?t=json")[2])["introducers"] == {"statuses": []}
    assert json.loads(ask("GET", "/statistics?t=json")[2])["counters"]["requests"] > 0
    assert ask("GET", "/operations/nix?output=JSON")[0] == 404
    assert ask("GET", "/", Accept="text/html")[1]["content-type"].startswith("text/html")
    assert json.loads(world.want("POST", "{file}?t=check&output=JSON"))["results"]["healthy"] is True
    assert len(world.want("POST", "{imm}?t=stream-manifest").splitlines()) == 3
    status, headers, _ = world.ask("POST", "{imm}?t=start-deep-stats&ophandle=h1")
    assert (status, headers["location"].rpartition("/operations/")[2]) == (302, "h1")
    page = world.ask("GET", "{d}/nix", Accept="text/html,*/*")
    assert (page[0], page[1]["content-type"]) == (404, "text/html; charset=utf-8")


def test_no_cap_is_told(world: World) -> None:
    """Neither in errors nor in the log, whatever a request says."""
    cap = world.caps["d"]
    for target in (
        f"/uri/{quote(cap, safe='')}/{quote(cap, safe='')}",
        f"/uri?uri=x{cap}",
        f"{quoted(cap)}?t={cap}",
        f"/{cap}",
        f"/uri/{quote(cap, safe='')}/{quote(quote(cap, safe=''), safe='')}",
    ):
        status, _, data = world.gateway.ask("GET", target)
        assert status >= 400
        assert cap[9:35] not in data.decode()
    told = world.gateway.told()
    assert "GET dir2" in told
    assert "URI" not in told
    assert "no such file" not in told, "there are names in what is told to a client"


def test_what_nothing_else_leads_to_is_pinned(world: World) -> None:
    """Else `lafs gc` of the gateway's own home would take it."""
    home: Path = world.gateway.home
    pins = (home / "pins").read_text().splitlines()
    for name in ("file", "mutro", "dro", "imm"):
        assert pins.count(world.caps[name]) == 1
    assert not any(world.caps[name] in pins for name in ("small", "mut", "d"))
