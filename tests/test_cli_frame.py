"""What holds for every command: options, streams, errors, exit codes (CLI.md §1)."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lafscli.cli import table
from lafscli.cli.frame import Frame
from lafscli.cli.main import load
from lafscli.cli.options import Settings
from lafscli.cli.output import Output
from lafscli.cli.text import columns
from lafscli.cli.trees import manifest
from lafscli.errors import UsageError
from lafscli.primitives.text import escape, human_size, without_caps
from tests.lafs_process import Lafs

LIT = "URI:LIT:krugkidfnzsc4"  # "The end."


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    return Lafs(tmp_path)


# ---- the table


def test_table_agrees_with_the_commands() -> None:
    """Every row leads to a command of that name whose docstring begins with the row's help."""
    for row in table.COMMANDS:
        found = load(row)
        assert found.name == row.name.split()[-1]
        assert (found.help or "").split("\n\n")[0].replace("\n", " ").strip() == row.help, row.name
        assert row.group in table.GROUPS
    words = [row.name for row in table.COMMANDS]
    assert len(set(words)) == len(words)
    families = {row.name.split()[0] for row in table.COMMANDS if " " in row.name}
    assert families == {each.name for each in table.FAMILIES}


def test_every_command_takes_the_options_of_every_command() -> None:
    for row in table.COMMANDS:
        known = {flag for param in load(row).params for flag in (*param.opts, *param.secondary_opts)}
        for option in table.OPTIONS:
            for flag in option.flags:
                assert "--help" in option.flags or known.issuperset(flag.split("/")), (row.name, flag)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["put", "--help"], ["server", "-h"]])
def test_help_and_version_import_nothing_heavy(lafs: Lafs, arguments: list[str]) -> None:
    program = (
        "import sys, runpy\n"
        "sys.argv = ['lafs', *sys.argv[1:]]\n"
        "try: runpy.run_module('lafscli', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'rich', 'paramiko', 'cryptography', 'nacl', 'zfec', 'tomli_w'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    if len(arguments) == 1:
        program += "assert 'click' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=lafs.environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout


def test_help_lists_groups_in_order_and_every_visible_command(lafs: Lafs) -> None:
    text = lafs("--help", code=0).stdout.decode()
    assert text == lafs("-h", "--quiet", code=0).stdout.decode()
    places = [text.index(f"\n{group}:") for group in table.GROUPS]
    assert places == sorted(places)
    for row in table.COMMANDS:
        first, _, second = row.name.partition(" ")
        line = next((line for line in text.splitlines() if line.startswith(f"  {first} ")), "")
        assert bool(line and second in line) is not row.hidden, row.name
    for option in table.OPTIONS:
        assert option.flags[-1] in text


def test_version(lafs: Lafs) -> None:
    from lafscli import __version__

    assert lafs("--version", code=0).stdout.decode() == f"lafs {__version__}\n"
    assert lafs.json("--version") == {"schema": 1, "version": __version__}


@pytest.mark.parametrize("name", [row.name for row in table.COMMANDS])
def test_help_lists_options_with_what_they_do(name: str) -> None:
    """And nothing else: arguments stand in the usage and the description."""
    row = table.find(name)
    assert row is not None
    command = load(row)
    text = command.get_help(click.Context(command, info_name=name))
    options = text.split("\nOptions:\n")[1].split("\nOptions of every command:")[0]
    rows = [line for line in options.splitlines() if line.startswith("  ") and line[2] != " "]
    assert rows
    assert [line for line in rows if not line.startswith("  -")] == []
    for param in command.params:
        assert not isinstance(param, click.Option) or param.help, param.name


# ---- usage errors


def test_alone(lafs: Lafs) -> None:
    done = lafs(code=2)
    assert done.stdout == b""
    assert done.stderr.decode().count("\n  lafs ") == 3


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["putt"], "did you mean put?", "lafs --help"),
        (["sevrer", "add"], "did you mean server?", "lafs --help"),
        (["server", "lst"], "did you mean list?", "lafs server --help"),
        (["server"], "say what to do: server add|list|status|remove", "lafs server --help"),
        (["put"], "missing argument 'LOCAL'", "lafs help put"),
        (["put", "--no-such", "x"], "no such option", "lafs help put"),
        (["put", "-x"], "no such option", "lafs help put; behind -- stand names that begin with -"),
        (["get", LIT, "@-", "-x"], "no such option", "lafs help get; behind -- stand names that begin with -"),
        (["server", "add", "x"], "missing argument 'URL'", "lafs help server add"),
        (["get", LIT, "a", "b"], "unexpected extra argument", "lafs help get"),
        (["get", LIT, "--offset", "x"], "not a size", "lafs help get"),
        (["put", "x", "--encoding", "4/3/2"], "can't be", "lafs help put"),
        (["--color", "red", "cat", LIT], "'red'", "lafs --help"),
        (["cat", LIT, "--timeout", "soon"], "not a duration", None),
        (["cat", LIT, "--limit-rate", "0"], "rate of 0", None),
    ],
)
def test_usage_errors_are_one_line_and_a_hint(lafs: Lafs, arguments: list[str], said: str, hint: str | None) -> None:
    done = lafs(*arguments, code=2)
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("lafs: ")
    assert said in lines[0]
    assert lines[0][6].islower() or lines[0][6] == "-"
    assert lines[1].startswith("hint: ")
    if hint is not None:
        assert lines[1] == f"hint: {hint}"
    assert len(lines) == 2
    assert done.stdout == b""


@pytest.mark.parametrize(
    "arguments", [["--json", "putt"], ["put", "--json"], ["put", "--no-such", "--json"], ["--json"]]
)
def test_usage_errors_as_json(lafs: Lafs, arguments: list[str]) -> None:
    done = lafs(*arguments, code=2)
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert (document["error"]["code"], document["error"]["kind"]) == (2, "Usage")
    assert set(document["error"]) == {"code", "kind", "message", "hint"}
    assert done.stdout.count(b"\n") == 1


def test_environment_that_is_wrong_answers_in_the_shape_it_asks_for(lafs: Lafs) -> None:
    for name in ("COLOR", "TIMEOUT", "VERBOSE"):
        done = lafs("encoding", code=2, LAFS_JSON="1", **{f"LAFS_{name}": "x"})
        assert f"LAFS_{name}" in json.loads(done.stdout)["error"]["message"]


def test_json_after_two_dashes_is_no_option(lafs: Lafs) -> None:
    assert lafs("put", "--", "--json", "a", "b", code=2).stdout == b""


def test_no_traceback_unless_asked(lafs: Lafs) -> None:
    assert b"Traceback" not in lafs("cat", "URI:CHK:x", code=2).stderr
    assert b"Traceback" in lafs("cat", "URI:CHK:x", code=2, LAFS_DEBUG="1").stderr
    assert b"Traceback" not in lafs("cat", "URI:CHK:x", code=2, LAFS_DEBUG="0").stderr


# ---- options of every command


def test_options_stand_before_or_after_the_command(lafs: Lafs) -> None:
    for arguments in (["--json", "cap", "show", LIT], ["cap", "--json", "show", LIT], ["cap", "show", "--json", LIT]):
        assert json.loads(lafs(*arguments, code=0).stdout)["kind"] == "lit"
    assert lafs("--home", "elsewhere", "server", "list").stderr.startswith(b"lafs: there is no home at")
    assert b"/elsewhere" in lafs("server", "list", "--home", "elsewhere", code=2).stderr
    assert b"/after" in lafs("--home", "before", "server", "list", "--home", "after", code=2).stderr


def test_environment_names_and_the_flag_wins(lafs: Lafs) -> None:
    assert json.loads(lafs("cap", "show", LIT, code=0, LAFS_JSON="1").stdout)["kind"] == "lit"
    assert lafs("cap", "show", LIT, code=0, LAFS_JSON="0").stdout.startswith(b"kind ")
    for name in (
        "LAFS_JSON",
        "LAFS_QUIET",
        "LAFS_VERBOSE",
        "LAFS_PROGRESS",
        "LAFS_COLOR",
        "LAFS_LIMIT_RATE",
        "LAFS_TIMEOUT",
    ):
        done = lafs("cap", "show", LIT, code=2, **{name: "perhaps"})
        assert name.encode() in done.stderr, name
    assert b"/flag" in lafs("server", "list", "--home", "flag", code=2, LAFS_HOME="env").stderr
    assert b"/env" in lafs("server", "list", code=2, LAFS_HOME="env").stderr


def test_colour(lafs: Lafs) -> None:
    assert b"\x1b[" not in lafs("putt").stderr
    assert b"\x1b[" in lafs("--color", "always", "putt").stderr
    assert b"\x1b[" in lafs("putt", LAFS_COLOR="always").stderr
    assert b"\x1b[" not in lafs("--color", "never", "putt", LAFS_COLOR="always").stderr
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        assert (b"\x1b[" in _stderr_on_a_terminal(lafs, ["putt"], **{"TERM": "xterm", **variables})) is coloured


def _stderr_on_a_terminal(lafs: Lafs, arguments: list[str], **variables: str) -> bytes:
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [*lafs.program, *arguments], stderr=theirs, stdout=subprocess.DEVNULL, env=lafs.environment(**variables)
    )
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # EIO: the other side is closed
        pass
    os.close(ours)
    done.wait()
    return said


def test_log_file_has_lines_of_json_and_no_caps(lafs: Lafs) -> None:
    log = lafs.folder / "log"
    secret = "krugkidfnzsc4krugkidfnzsc4"
    lafs("cat", f"URI:SSK:{secret}", "--log-file", log, code=2)
    lafs("--log-file", log, "get", f"URI:LIT:{secret}/x", code=2)
    lafs("get", f"URI:LIT:{secret}/x", code=2, LAFS_LOG_FILE=str(log))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begin", "error", "end"] * 3
    assert [line["command"] for line in lines if line["event"] == "begin"] == ["lafs cat", "lafs get", "lafs get"]
    assert all({"time", "pid"} < set(line) for line in lines)
    assert [line["code"] for line in lines if "code" in line] == [2] * 6
    assert secret not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert b"cannot open the log file" in lafs("cat", LIT, "--log-file", lafs.folder, code=2).stderr


def test_quiet_leaves_out_warnings_only(lafs: Lafs) -> None:
    lafs("init", code=0)
    (lafs.home / "secret").chmod(0o644)
    assert b"chmod 600" in lafs("server", "list", code=0).stderr
    assert lafs("server", "list", "-q", code=0).stderr == b""
    assert lafs("cat", "-q", "nothing", code=3).stderr.startswith(b"lafs: ")


# ---- streams


def test_nobody_reads(lafs: Lafs) -> None:
    """A reader that goes away ends the command quietly, and not with success."""
    reader, writer = os.pipe()
    os.close(reader)
    running = lafs.start("cat", LIT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert running.communicate()[1] == b""
    assert running.returncode == 141


@pytest.mark.parametrize("arguments", [["cat", LIT], ["cap", "show", LIT], ["--version", "--json"], ["--json", "putt"]])
def test_answer_that_can_not_be_written_is_no_success(lafs: Lafs, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        running = lafs.start(*arguments, stdout=full, stderr=subprocess.PIPE)
        said = running.communicate()[1]
    assert running.returncode != 0
    assert b"Traceback" not in said
    assert b"Exception ignored" not in said
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *lafs.program, *arguments],
        env=lafs.environment(),
        capture_output=True,
        check=False,
    )
    assert closed.returncode != 0
    assert b"Traceback" not in closed.stderr


def test_a_warning_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(Settings(color="never"))
    for words in ("one", "two", "one"):
        out.warn(words)
    assert capsys.readouterr().err == "lafs: warning: one\nlafs: warning: two\n"


def test_one_answer_of_manifest() -> None:
    done = CliRunner().invoke(manifest, [LIT, "--verify-cap", "--read-cap"], obj=Frame(Settings()))
    assert isinstance(done.exception, UsageError)
    assert "not several" in done.exception.message


# ---- text


def test_escape() -> None:
    assert escape("plain näme") == "plain näme"
    assert escape("a\nb\x1b[31m\x7f\u202e\u200b\ud800\u2028") == "a\\nb\\x1b[31m\\x7f\\u202e\\u200b\\ud800\\u2028"
    assert escape("caf\udce9 \udcff") == "caf\\xe9 \\xff"  # bytes that are not UTF-8
    assert escape("[red]x[/red]") == "[red]x[/red]"
    for code in [*range(32), *range(127, 160)]:
        assert escape(chr(code)).isprintable()


def test_caps_are_cut_out() -> None:
    text = "x URI:CHK:aaaa:bbbb:3:10:5 y ro.URI:DIR2-RO:cc:dd/path {'URI:LIT:abc'}"
    assert without_caps(text) == "x URI:CHK:... y ro.URI:DIR2-RO:.../path {'URI:LIT:...'}"


def test_columns_and_sizes() -> None:
    assert columns([("a", "b"), ("long", "\x1b")]) == "a     b\nlong  \\x1b"
    assert [human_size(count) for count in (0, 999, 1000, 1_500_000, 10**13)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "10.0 TB",
    ]


def test_hostile_names_in_errors_are_escaped(lafs: Lafs) -> None:
    done = lafs("put", "no\x1b[31m\nsuch", "--no-convergence", code=2)
    assert b"\x1b" not in done.stderr
    assert done.stderr.count(b"\n") == 2
