"""Help, manual pages and completion: there for every command, current, and accepted by the programs that read them."""

from __future__ import annotations

import inspect
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import lafscli
from lafscli.cli import main, options, reference, table
from lafscli.cli.generate import COMPLETION_FILES, documents
from lafscli.cli.manual import Block, Page, parse, plain, roff

CHECKOUT = Path(lafscli.__file__).parent.parent
SHOWN = [row for row in table.COMMANDS if not row.hidden]
IN_CI = bool(os.environ.get("CI"))


def lafs(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lafs of this checkout."""
    return subprocess.run(
        [sys.executable, "-m", "lafscli", *arguments],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def program(name: str) -> str:
    """Path of a program that tests need; in CI it must be there."""
    path = shutil.which(name)
    if path is None:
        assert not IN_CI, f"{name} is not installed"
        pytest.skip(f"{name} is not installed")
    return path


# ---- current and complete ----


def test_generated_files_are_current() -> None:
    written = {
        str(path.relative_to(CHECKOUT)): path.read_text("utf-8")
        for folder in ("man", "completions")
        for path in (CHECKOUT / folder).iterdir()
    }
    wanted = documents()
    stale = sorted(name for name in written.keys() | wanted.keys() if written.get(name) != wanted.get(name))
    assert not stale, f"run `lafs generate-docs .` and commit: {stale}"


def test_generated_files_do_not_depend_on_terminal_locale_or_day(tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "man", tmp_path / "man")
    (tmp_path / "man" / "lafs-gone.1").write_text("a command that was removed")
    odd = {
        "COLUMNS": "31",
        "LC_ALL": "C",
        "TERM": "dumb",
        "TZ": "Asia/Tokyo",
        "SOURCE_DATE_EPOCH": "1",
        "LAFS_TIMEOUT": "9s",
    }
    assert lafs("generate-docs", str(tmp_path), **odd).returncode == 0
    for folder in ("man", "completions"):
        there = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        assert there == {path.name: path.read_bytes() for path in (CHECKOUT / folder).iterdir()}


def test_every_command_has_a_page_and_every_written_part_a_command() -> None:
    names = ["lafs-" + row.name.replace(" ", "-") for row in SHOWN]
    assert sorted([*names, "lafs", "lafs-config", "lafs-security", "lafs-backup.7"]) == sorted(reference.names())
    assert reference.written_parts() == sorted([*reference.names(), "exits"])


@pytest.mark.parametrize("row", table.COMMANDS, ids=lambda row: row.name)
def test_the_table_says_what_the_command_says(row: table.Command) -> None:
    command = main.load(row)
    text = inspect.cleandoc(command.help or "")
    assert " ".join(text.split("\n\n")[0].split()) == row.help
    assert command.name == row.name.split()[-1]
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert param.help, f"{row.name}: {param.opts[0]} has no help"


@pytest.mark.parametrize("row", SHOWN, ids=lambda row: row.name)
def test_a_page_tells_its_options_exit_codes_and_how_to_begin(row: table.Command) -> None:
    page = reference.page("lafs-" + row.name.replace(" ", "-"))
    assert page is not None
    text = roff(page)
    sections = [block.text for block in page.blocks if block.kind == "section"]
    for wanted in ("SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"):
        assert wanted in sections or (wanted == "EXAMPLES" and row.name.startswith("server ")), wanted
    for param in main.load(row).params:
        if isinstance(param, click.Option) and not param.hidden and not isinstance(param, options.GlobalOption):
            assert param.opts[0].replace("-", "\\-") in text


def test_help_of_every_command_is_the_same_by_both_ways() -> None:
    for words in (["put"], ["server"], ["server", "add"], []):
        direct, named = lafs(*words, "--help"), lafs("help", *words)
        assert (direct.returncode, named.returncode) == (0, 0)
        assert direct.stdout.strip() == named.stdout.strip()
        assert direct.stdout.startswith(" ".join(["Usage: lafs", *words]))
    wrong = lafs("help", "server", "ad")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean" in wrong.stderr
    assert lafs("help", "put", "more").returncode == 2


# ---- manual pages ----


def test_mandoc_finds_nothing() -> None:
    pages = sorted(str(path) for path in (CHECKOUT / "man").iterdir())
    done = subprocess.run(
        [program("mandoc"), "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_a_page_in_both_forms() -> None:
    text = """
before `bold-face` and *it's*

# LIST

= `--flag` X
what it
does
= other
.dots

* one
* two

    $ code -x \\
    .more

    'last
"""
    page = Page("lafs-x", 1, "try", tuple(parse(text)), "lafs 1", "2026-01-02")
    assert parse(text)[0] == Block("text", "before `bold-face` and *it's*")
    assert roff(page).splitlines() == [
        '.TH LAFS-X 1 2026-01-02 "lafs 1" "lafs manual"',
        ".SH NAME",
        "lafs\\-x \\- try",
        ".PP",
        "before \\fBbold\\-face\\fR and \\fIit\\(aqs\\fR",
        ".SH LIST",
        ".TP",
        "\\fB\\-\\-flag\\fR X",
        "what it does",
        ".TP",
        "other",
        "\\&.dots",
        ".IP \\(bu 2",
        "one",
        ".IP \\(bu 2",
        "two",
        ".PP",
        ".nf",
        ".RS 4",
        "$ code \\-x \\e",
        "\\&.more",
        "",
        "\\(aqlast",
        ".RE",
        ".fi",
    ]
    assert plain(page).splitlines()[2:] == [
        "NAME",
        "       lafs-x - try",
        "",
        "       before bold-face and it's",
        "",
        "LIST",
        "       --flag X",
        "              what it does",
        "       other",
        "              .dots",
        "       * one",
        "       * two",
        "",
        "           $ code -x \\",
        "           .more",
        "",
        "           'last",
        "",
    ]


def test_man_shows_the_page_as_text_where_there_is_no_terminal() -> None:
    page = reference.page("lafs-server-add")
    assert page is not None
    assert lafs("man", "server", "add").stdout.rstrip() == plain(page).rstrip()
    document = json.loads(lafs("man", "security", "--json").stdout)
    assert (document["page"], document["schema"]) == ("lafs-security.7", 1)
    assert lafs("man").stdout.startswith("LAFS(1)")
    assert lafs("man", "lafs").stdout.startswith("LAFS(1)")
    for name in ("lafs-security", "lafs-config", "lafs-server-add"):  # as SEE ALSO has them
        assert lafs("man", name).stdout == lafs("man", *name.split("-")[1:]).stdout
    wrong = lafs("man", "server", "ad")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 2)
    assert "server-add" in wrong.stderr


def on_a_terminal(*arguments: str, path: str) -> str:
    """What lafs shows on a terminal when only the programs in `path` are there."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "lafscli", *arguments],
        cwd=CHECKOUT,
        env={"PATH": path, "HOME": "/nonexistent", "MANPAGER": "cat", "PAGER": "cat", "TERM": "dumb"},
        stdout=there,
        stderr=subprocess.STDOUT,
    )
    os.close(there)
    shown = b""
    try:
        while piece := os.read(here, 65536):
            shown += piece
    except OSError:  # Linux says EIO at the end
        pass
    os.close(here)
    assert process.wait() == 0
    return shown.decode().replace("\r\n", "\n")


def test_man_on_a_terminal_calls_man_where_it_is(tmp_path: Path) -> None:
    assert "lafs-put - store a file" in on_a_terminal("man", "put", path=str(tmp_path))
    stand_in = tmp_path / "man"
    stand_in.write_text('#!/bin/sh\necho "shown by man:"\nwhile read -r line; do echo "$line"; done < "$1"\n')
    stand_in.chmod(0o755)
    shown = on_a_terminal("man", "put", path=str(tmp_path))
    assert shown.startswith("shown by man:\n.TH LAFS")


# ---- completion ----


@pytest.mark.parametrize("shell", COMPLETION_FILES)
def test_completion_prints_the_file(shell: str) -> None:
    assert lafs("completion", shell).stdout == (CHECKOUT / "completions" / COMPLETION_FILES[shell]).read_text()


def bash(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    done = subprocess.run(
        [
            program("bash"),
            "--norc",
            "-c",
            'source "$1"; shift; COMP_WORDS=(lafs "$@"); COMP_CWORD=$#; _lafs; printf "%s\\n" "${COMPREPLY[@]}"',
            "bash",
            str(CHECKOUT / "completions" / "lafs.bash"),
            *words,
        ],
        cwd=folder,
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return sorted(filter(None, done.stdout.split("\n")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file with a space in its name, a cap file, a folder."""
    (tmp_path / "two words.txt").touch()
    (tmp_path / "my.cap").touch()
    (tmp_path / "sub").mkdir()
    return tmp_path


def test_bash_offers_commands_options_values_and_files_and_starts_no_process(folder: Path) -> None:
    words = {row.name.split()[0] for row in SHOWN}
    assert set(bash(folder, "")) == words
    assert bash(folder, "pu") == ["put"]
    assert bash(folder, "--json", "--home", "x", "pu") == ["put"]
    assert bash(folder, "server", "") == sorted(row.name.split()[1] for row in SHOWN if row.name.startswith("server "))
    assert bash(folder, "-q", "server", "--timeout", "9s", "ad") == ["add"]
    assert bash(folder, "put", "--for") == ["--format"]
    assert bash(folder, "put", "--format", "") == ["chk", "mdmf", "sdmf"]
    assert bash(folder, "put", "--format", "=", "s") == ["sdmf"]
    assert bash(folder, "--color", "") == ["always", "auto", "never"]
    assert "--json" in bash(folder, "server", "add", "-")
    assert "--site" in bash(folder, "server", "add", "-")
    assert "--site" not in bash(folder, "put", "-")
    assert bash(folder, "put", "") == ["my.cap", "sub", "two words.txt"]
    assert bash(folder, "put", "--encoding", "") == []
    assert bash(folder, "get", "@") == ["@my.cap", "@sub", "@two words.txt"]
    assert bash(folder, "get", "@my.cap", "tw") == ["two words.txt"]
    assert bash(folder, "--home", "") == ["sub"]
    assert bash(folder, "completion", "") == ["bash", "fish", "zsh"]
    assert set(bash(folder, "help", "")) == words
    assert bash(folder, "put", "--", "--x") == []


@pytest.fixture
def aliases(folder: Path) -> Path:
    """A home with two aliases, beside the files of `folder`."""
    (folder / "sub" / "aliases").write_text("# lines\nmusic: URI:DIR2:a:b\nmy-photos: URI:DIR2-RO:a:b\nempty:\n")
    return folder


def test_bash_offers_aliases(aliases: Path) -> None:
    assert bash(aliases, "--home", "sub", "ls", "m") == ["music:", "my-photos:", "my.cap"]
    assert bash(aliases, "--home", "sub", "ls", "mu") == ["music:"]
    assert bash(aliases, "--home", "sub", "alias", "remove", "") == ["music", "my-photos"]
    assert bash(aliases, "--home", "nowhere", "ls", "mu") == []
    assert bash(aliases, "--home", "sub", "put", "mu") == []


def test_fish_offers_aliases(aliases: Path) -> None:
    assert fish(aliases, "lafs --home sub ls mu") == ["music:"]
    assert fish(aliases, "lafs --home sub alias remove m") == ["music", "my-photos"]


def test_every_option_of_every_command_is_offered_by_bash(folder: Path) -> None:
    for row in SHOWN:
        offered = bash(folder, *row.name.split(), "-")
        for param in main.load(row).params:
            if isinstance(param, click.Option) and not param.hidden:
                assert set(param.opts) <= set(offered), row.name


def fish(folder: Path, line: str) -> list[str]:
    """What fish offers at the end of this line."""
    done = subprocess.run(
        [
            program("fish"),
            "--no-config",
            "-c",
            "source $argv[1]; complete -C $argv[2]",
            str(CHECKOUT / "completions" / "lafs.fish"),
            line,
        ],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return sorted(each.split("\t")[0] for each in done.stdout.splitlines())


def test_fish_offers_commands_options_values_and_files(folder: Path) -> None:
    assert set(fish(folder, "lafs ")) == {row.name.split()[0] for row in SHOWN}
    assert fish(folder, "lafs --home x pu") == ["put"]
    assert fish(folder, "lafs server ad") == ["add"]
    assert fish(folder, "lafs put --for") == ["--format"]
    assert fish(folder, "lafs put --format=s") == ["--format=sdmf"]
    assert "two words.txt" in fish(folder, "lafs put t")
    assert "@my.cap" in fish(folder, "lafs get @m")
    assert "--site" not in fish(folder, "lafs put --s")
    assert "--site" in fish(folder, "lafs server add --s")


def test_zsh_loads_its_script(folder: Path) -> None:
    script = "autoload -U compinit; compinit -D; source $1; print -l $_comps[lafs] ${(k)functions[(I)_lafs_*]}"
    done = subprocess.run(
        [program("zsh"), "-f", "-c", script, "zsh", str(CHECKOUT / "completions" / "_lafs")],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "_lafs"
    assert {"_lafs_" + row.name.replace(" ", "_").replace("-", "_") for row in SHOWN} <= set(lines)
