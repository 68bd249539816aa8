"""The commands there are, without loading any: read by `--help`, completion, man pages and "did you mean".

A command's module is imported when the command runs; a test compares `help` with the command's docstring. This
module imports nothing heavy, so that `lafs --help` starts as fast as Python does.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """One command. `name` has two words inside a family (`server add`); `attribute` is the click command."""

    name: str
    module: str
    attribute: str
    group: str
    help: str
    hidden: bool = False


class Family(NamedTuple):
    """A word that is followed by a command of its own (`server`)."""

    name: str
    group: str
    help: str


class Option(NamedTuple):
    """An option of every command; `env` is its name in the environment ("" for none)."""

    flags: tuple[str, ...]
    metavar: str
    env: str
    help: str


SETUP = "Set-up"
FILES = "Files and directories"
HEALTH = "Health"
BACKUPS = "Backups"
SERVING = "Serving"
TOOL = "The tool itself"
GROUPS = (SETUP, FILES, HEALTH, BACKUPS, SERVING, TOOL)

FAMILIES = (
    Family("server", SETUP, "The servers of this home."),
    Family("alias", SETUP, "Names for directories and files."),
    Family("grid", SETUP, "What others need to use your caps."),
    Family("recovery", SETUP, "What brings this home back on another machine."),
    Family("cap", FILES, "What a cap is and what it grants."),
    Family("share", HEALTH, "Shares on servers and on disk."),
    Family("gateway", SERVING, "The grid for programs that know no caps."),
)

COMMANDS = (
    Command("init", "lafscli.cli.setup", "init", SETUP, "Make a home: configuration and secrets."),
    Command("server add", "lafscli.cli.servers", "add", SETUP, "Add a server under a name."),
    Command("server list", "lafscli.cli.servers", "list_", SETUP, "List the servers of this home."),
    Command("server status", "lafscli.cli.servers", "status", SETUP, "Ask servers how they are."),
    Command("server remove", "lafscli.cli.servers", "remove", SETUP, "Forget a server; its shares stay there."),
    Command("server scan", "lafscli.cli.scanning", "scan", SETUP, "List every share on a server."),
    Command("server drain", "lafscli.cli.moves", "drain_", SETUP, "Copy our shares from a server to the others."),
    Command("server replace", "lafscli.cli.moves", "replace_", SETUP, "Put a new server in the place of another."),
    Command(
        "server history",
        "lafscli.cli.rollback",
        "history",
        SETUP,
        "List the versions of mutable shares that a storage host has kept.",
    ),
    Command(
        "server rollback",
        "lafscli.cli.rollback",
        "rollback",
        SETUP,
        "Put a kept version of a mutable object back in place.",
    ),
    Command(
        "status",
        "lafscli.cli.status",
        "status",
        SETUP,
        "Show servers, and the last good backup and check of each root.",
    ),
    Command("encoding", "lafscli.cli.setup", "encoding", SETUP, "Show or set how many shares a file gets."),
    Command("alias create", "lafscli.cli.aliases", "create", SETUP, "Make a directory and give it a name."),
    Command("alias add", "lafscli.cli.aliases", "add", SETUP, "Give a name to what TARGET leads to."),
    Command("alias list", "lafscli.cli.aliases", "list_", SETUP, "List the names that caps were given."),
    Command(
        "alias remove", "lafscli.cli.aliases", "remove", SETUP, "Forget a name, and print the cap that it stood for."
    ),
    Command("alias rename", "lafscli.cli.aliases", "rename", SETUP, "Give an alias another name."),
    Command("grid export", "lafscli.cli.grids", "export", SETUP, "Write servers, host keys and encoding to a file."),
    Command("grid import", "lafscli.cli.grids", "import_", SETUP, "Take servers and encoding from a grid file."),
    Command(
        "recovery export",
        "lafscli.cli.kits",
        "export",
        SETUP,
        "Write all that brings this home back to a sealed file.",
    ),
    Command("recovery import", "lafscli.cli.kits", "import_", SETUP, "Make a home from a recovery kit."),
    Command("put", "lafscli.cli.put", "put", FILES, "Store a file and print its cap."),
    Command("get", "lafscli.cli.files", "get", FILES, "Fetch a file."),
    Command("cat", "lafscli.cli.files", "cat", FILES, "Write files to stdout."),
    Command("ls", "lafscli.cli.listing", "ls", FILES, "List a directory."),
    Command("mkdir", "lafscli.cli.directories", "mkdir", FILES, "Make a directory and print its write cap."),
    Command("ln", "lafscli.cli.links", "ln", FILES, "Give an object a name in a directory."),
    Command("mv", "lafscli.cli.links", "mv", FILES, "Give an entry another name or place."),
    Command("rm", "lafscli.cli.links", "rm", FILES, "Remove links from directories."),
    Command("cp", "lafscli.cli.copying", "cp", FILES, "Copy files and directories to the grid, from it, or within it."),
    Command("find", "lafscli.cli.trees", "find", FILES, "Find files and directories in a tree."),
    Command("manifest", "lafscli.cli.trees", "manifest", FILES, "List every object of a tree with its cap."),
    Command("stats", "lafscli.cli.trees", "stats", FILES, "Count what is in a tree, and how large it is."),
    Command("cap show", "lafscli.cli.caps", "show", FILES, "Show what a cap is and grants."),
    Command("cap read", "lafscli.cli.caps", "read", FILES, "Print the read cap."),
    Command("cap verify", "lafscli.cli.caps", "verify", FILES, "Print the verify cap."),
    Command("batch", "lafscli.cli.batch", "batch", FILES, "Run one command a line over one set of connections."),
    Command("check", "lafscli.cli.health", "check", HEALTH, "Count the shares of objects, or prove them."),
    Command("repair", "lafscli.cli.health", "repair", HEALTH, "Bring objects back to all their shares."),
    Command("renew", "lafscli.cli.renewing", "renew", HEALTH, "Renew the leases of what is stored."),
    Command(
        "gc",
        "lafscli.cli.gc",
        "gc",
        HEALTH,
        "Throw away what nothing leads to, or at a storage host what no lease holds.",
    ),
    Command("unpin", "lafscli.cli.unpinning", "unpin", HEALTH, "Let go of what was stored without a name."),
    Command("share show", "lafscli.cli.shares", "show", HEALTH, "Show what is in a share."),
    Command("share find", "lafscli.cli.shares", "find", HEALTH, "Ask every server for the shares of an object."),
    Command("backup", "lafscli.cli.backup", "backup", BACKUPS, "Store a snapshot of a folder, and print its path."),
    Command(
        "snapshots", "lafscli.cli.backup", "snapshots", BACKUPS, "List the snapshots of a backup, the oldest first."
    ),
    Command("restore", "lafscli.cli.restoring", "restore", BACKUPS, "Write a snapshot or a part of it into a folder."),
    Command("diff", "lafscli.cli.restoring", "diff", BACKUPS, "Show what is different between two directories."),
    Command("forget", "lafscli.cli.restoring", "forget", BACKUPS, "Remove snapshots, but for those that rules keep."),
    Command(
        "serve", "lafscli.cli.serve", "serve", SERVING, "Serve a folder of shares over SFTP, and keep them from harm."
    ),
    Command("gateway http", "lafscli.cli.gatehttp", "http", SERVING, "Offer the grid over HTTP or HTTPS."),
    Command("gateway sftp", "lafscli.cli.gatesftp", "sftp", SERVING, "Offer directories of the grid over SFTP."),
    Command("completion", "lafscli.cli.generate", "completion", TOOL, "Print the completion script for a shell."),
    Command("help", "lafscli.cli.generate", "help_", TOOL, "Show the help of a command, or list the commands."),
    Command("man", "lafscli.cli.generate", "man", TOOL, "Show the manual page of a command."),
    Command(
        "create-alias",
        "lafscli.cli.aliases",
        "create_alias",
        SETUP,
        "Make a directory and give it a name.",
        hidden=True,
    ),
    Command(
        "add-alias", "lafscli.cli.aliases", "add_alias", SETUP, "Give a name to what TARGET leads to.", hidden=True
    ),
    Command(
        "list-aliases",
        "lafscli.cli.aliases",
        "list_aliases",
        SETUP,
        "List the names that caps were given.",
        hidden=True,
    ),
    Command("unlink", "lafscli.cli.links", "unlink", FILES, "Remove links from directories.", hidden=True),
    Command(
        "deep-check",
        "lafscli.cli.health",
        "deep_check",
        HEALTH,
        "Count the shares of objects, or prove them.",
        hidden=True,
    ),
    Command(
        "generate-docs",
        "lafscli.cli.generate",
        "generate_docs",
        TOOL,
        "Write man/ and completions/ below DIR, and remove pages of commands that are gone.",
        hidden=True,
    ),
    Command(
        "build-zipapp",
        "lafscli.cli.generate",
        "build_zipapp",
        TOOL,
        "Write lafs and all it needs into one executable file in DIR.",
        hidden=True,
    ),
)

OPTIONS = (
    Option(("--json",), "", "LAFS_JSON", "Answer with one JSON document."),
    Option(("-q", "--quiet"), "", "LAFS_QUIET", "Only the answer, only errors."),
    Option(("-v", "--verbose"), "", "LAFS_VERBOSE", "Tell more; may be repeated."),
    Option(("--progress/--no-progress",), "", "LAFS_PROGRESS", "Draw progress (default: on a terminal)."),
    Option(("--color",), "auto|always|never", "LAFS_COLOR", "Colour on stderr (default: auto)."),
    Option(("--log-file",), "FILE", "LAFS_LOG_FILE", "Append a log of JSON lines, without caps."),
    Option(("--limit-rate",), "SIZE", "LAFS_LIMIT_RATE", "Bytes a second, over all servers."),
    Option(("--timeout",), "DURATION", "LAFS_TIMEOUT", "Give a silent server up after so long."),
    Option(("--home",), "DIR", "LAFS_HOME", "Configuration and secrets."),
    Option(("-h", "--help"), "", "", "Show help and exit."),
)

SHORT_HELP = """\
usage: lafs COMMAND ...

  lafs init --local          try it: ten servers that are folders of this machine
  lafs put report.pdf        store a file; prints the cap that fetches it
  lafs get CAP report.pdf    fetch it, proven byte by byte

`lafs --help` lists the commands.
"""


def family(name: str) -> tuple[Command, ...]:
    """The commands of a family, or those of one word for ""."""
    return tuple(row for row in COMMANDS if row.name.rpartition(" ")[0] == name)


def find(name: str) -> Command | None:
    """The command of that full name."""
    return next((row for row in COMMANDS if row.name == name), None)


def listed(group: str) -> list[tuple[str, str]]:
    """Name and help of what `--help` shows in a group; a family is one line."""
    lines: list[tuple[str, str]] = []
    for row in COMMANDS:
        if row.group != group or row.hidden:
            continue
        word = row.name.partition(" ")[0]
        if word == row.name:
            lines.append((row.name, row.help))
        elif not lines or not lines[-1][0].startswith(word + " "):
            members = "|".join(other.name.partition(" ")[2] for other in family(word) if not other.hidden)
            lines.append((f"{word} {members}", next(each.help for each in FAMILIES if each.name == word)))
    return lines


def overview() -> str:
    """The text of `lafs --help`."""
    parts = [
        "Usage: lafs COMMAND ...",
        "",
        "Encrypted, erasure-coded, provable storage on the SSH hosts you already have.",
    ]
    sections = [(group, listed(group)) for group in GROUPS]
    width = max(len(name) for _, lines in sections for name, _ in lines)
    for group, lines in sections:
        if lines:
            parts += ["", f"{group}:"]
            parts += [f"  {name:<{width}}  {text}" for name, text in lines]
    parts += ["", "Options, before or after the command:"]
    spelled = [(", ".join(row.flags) + (f" {row.metavar}" if row.metavar else ""), row) for row in OPTIONS]
    wide = max(len(flags) for flags, _ in spelled)
    parts += [f"  {flags:<{wide}}  {row.help}" for flags, row in spelled]
    parts += ["", "Each has an environment name: LAFS_JSON, LAFS_HOME, LAFS_LIMIT_RATE and so on.", ""]
    return "\n".join(parts)
