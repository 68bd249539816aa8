"""Completion scripts for bash, zsh and fish: static text that starts no process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import click

from lafscli.cli import main, options, table

_FILES = {"FILE", "PATH", "LOCAL"}
_HEADER = "# Completion of lafs for {shell}; made by `lafs generate-docs`, not by hand.\n"


@dataclass(frozen=True, slots=True)
class Word:
    """What may follow: one of `choices`, else a path of `kind` ("file", "dir", "target"), the name of an "alias",
    else anything ("")."""

    name: str
    kind: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Flag:
    """An option: its spellings and, where it takes one, its value."""

    names: tuple[str, ...]
    help: str
    value: Word | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """A command as completion sees it."""

    name: str
    help: str
    flags: tuple[Flag, ...]
    arguments: tuple[Word, ...]

    @property
    def slug(self) -> str:
        """The name as part of a shell function's name."""
        return self.name.replace(" ", "_").replace("-", "_")


def script(shell: str) -> str:
    """The completion script for bash, zsh or fish."""
    usages = [_usage(row) for row in table.COMMANDS if not row.hidden]
    text = _HEADER.format(shell=shell) + {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](usages)
    return f"#compdef lafs\n{text}" if shell == "zsh" else text  # zsh looks for it in the first line


def _template(name: str) -> str:
    return files("lafscli.cli").joinpath("shells", f"{name}.txt").read_text("utf-8")


def _usage(row: table.Command) -> Usage:
    command = main.load(row)
    own = [param for param in command.params if not isinstance(param, options.GlobalOption)]
    flags = tuple(_flag(param) for param in own if isinstance(param, click.Option) and not param.hidden)
    return Usage(row.name, row.help, flags, tuple(_word(p) for p in own if isinstance(p, click.Argument)))


def _flag(option: click.Option) -> Flag:
    names = (*option.opts, *option.secondary_opts)
    takes_none = option.is_flag or option.count
    return Flag(names, (option.help or "").rstrip("."), None if takes_none else _word(option))


def _word(param: click.Parameter) -> Word:
    """What a value or an argument is, by its type or by the name that help shows."""
    if isinstance(param.type, click.Choice):
        return Word(param.human_readable_name, choices=tuple(str(choice) for choice in param.type.choices))
    shown = (param.metavar or param.human_readable_name).upper().strip("[].")
    if shown in ("COMMAND", "COMMAND..."):
        return Word("COMMAND", choices=_command_words())
    kind = (
        "dir"
        if "DIR" in shown
        else "target"
        if "TARGET" in shown or shown in ("SOURCE", "DEST")
        else "alias"
        if shown == "ALIAS"
        else "file"
        if shown.partition("|")[0] in _FILES
        else ""
    )
    return Word(shown, kind)


def _global_flags() -> tuple[Flag, ...]:
    flags = []
    for row in table.OPTIONS:
        names = tuple(name for flag in row.flags for name in flag.split("/"))
        choices = tuple(row.metavar.split("|")) if "|" in row.metavar else ()
        kind = {"FILE": "file", "DIR": "dir"}.get(row.metavar, "")
        flags.append(Flag(names, row.help.rstrip("."), Word(row.metavar, kind, choices) if row.metavar else None))
    return tuple(flags)


def _command_words() -> tuple[str, ...]:
    """What may stand first: commands of one word and families."""
    return tuple(dict.fromkeys(row.name.split()[0] for row in table.COMMANDS if not row.hidden))


def _members(family: str) -> tuple[str, ...]:
    return tuple(row.name.split()[1] for row in table.family(family) if not row.hidden)


def _names(flags: Iterable[Flag]) -> list[str]:
    return [name for flag in flags for name in flag.names]


# ---- bash ----


def _bash(usages: Sequence[Usage]) -> str:
    general = _global_flags()
    valued = dict.fromkeys(
        _names(flag for each in (general, *(u.flags for u in usages)) for flag in each if flag.value)
    )
    values = []
    for command, flags in [("*", general), *((u.name, u.flags) for u in usages)]:
        for flag in flags:
            if flag.value is not None:
                where = "*" if command == "*" else f'"{command}"'
                pattern = "|".join(f"{where}:{name}" for name in flag.names)
                values.append(f"            {pattern}) {_bash_action(flag.value)}; return ;;")
    words = [f"        :*) _lafs_words '{' '.join(_command_words())}' ;;"]
    words += [f"        {f.name}:*) _lafs_words '{' '.join(_members(f.name))}' ;;" for f in table.FAMILIES]
    for usage in usages:
        for number, word in enumerate(usage.arguments):
            last = number == len(usage.arguments) - 1
            if word.kind or word.choices:
                words.append(f'        "{usage.name}":{"*" if last else number}) {_bash_action(word)} ;;')
    everywhere = " ".join(_names(general))
    flags_text = [
        f"                {_quoted(usage.name)}) word={_quoted(' '.join(_names(usage.flags)))} ;;"
        for usage in usages
        if usage.flags
    ]
    flags_text.append("                '') word=--version ;;")
    script = _template("bash").replace("@VALUED@", "|".join(valued)).replace("@VALUES@", "\n".join(values))
    script = script.replace("@FAMILIES@", "|".join(family.name for family in table.FAMILIES))
    script = script.replace("@FLAGS@", "\n".join(flags_text)).replace("@GLOBAL@", everywhere)
    return script.replace("@WORDS@", "\n".join(words))


def _bash_action(word: Word) -> str:
    if word.choices:
        return f"_lafs_words '{' '.join(word.choices)}'"
    return {
        "file": "_lafs_files -f",
        "dir": "_lafs_files -d",
        "target": "_lafs_targets",
        "alias": "_lafs_alias_names",
    }.get(word.kind, ":")


# ---- zsh ----


def _zsh(usages: Sequence[Usage]) -> str:
    functions = []
    for usage in usages:
        specs = [spec for flag in usage.flags for spec in _zsh_flag(flag)]
        for number, word in enumerate(usage.arguments):
            last = number == len(usage.arguments) - 1
            specs.append(_quoted(f"{'*' if last else number + 1}:{_zsh_text(word.name)}:{_zsh_action(word)}"))
        body = " \\\n        ".join(["_arguments -S $_lafs_general", *specs])
        functions.append(f"_lafs_{usage.slug}() {{\n    {body}\n}}")
    for family in table.FAMILIES:
        rows = [(row.name.split()[1], row.help) for row in table.family(family.name) if not row.hidden]
        text = _template("zsh-family").replace("@FAMILY@", family.name).replace("@COMMANDS@", _zsh_described(rows))
        functions.append(text.strip("\n"))
    families = {family.name: family.help for family in table.FAMILIES}
    named = [(word, families.get(word) or _help_of(word)) for word in _command_words()]
    general = "\n".join(f"    {spec}" for flag in _global_flags() for spec in _zsh_flag(flag))
    script = _template("zsh").replace("@GENERAL@", general).replace("@FUNCTIONS@", "\n\n".join(functions))
    return script.replace("@COMMANDS@", _zsh_described(named))


def _help_of(name: str) -> str:
    row = table.find(name)
    return row.help if row is not None else ""


def _zsh_described(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(" " * 16 + _quoted(f"{name}:{text.rstrip('.')}") for name, text in rows)


def _zsh_flag(flag: Flag) -> list[str]:
    text = _zsh_text(flag.help).replace("[", "\\[").replace("]", "\\]")
    value = f":{_zsh_text(flag.value.name)}:{_zsh_action(flag.value)}" if flag.value is not None else ""
    return [_quoted(f"*{name}{'=' if value and name.startswith('--') else ''}[{text}]{value}") for name in flag.names]


def _zsh_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def _zsh_action(word: Word) -> str:
    if word.choices:
        return f"({' '.join(word.choices)})"
    actions = {"file": "_files", "dir": "_files -/", "target": "_lafs_target", "alias": "_lafs_alias_name"}
    return actions.get(word.kind, "()")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---- fish ----


def _fish(usages: Sequence[Usage]) -> str:
    general = _global_flags()
    valued = dict.fromkeys(
        _names(flag for each in (general, *(u.flags for u in usages)) for flag in each if flag.value)
    )
    script = _template("fish").replace("@VALUED@", " ".join(valued))
    lines = [script.replace("@FAMILIES@", " ".join(family.name for family in table.FAMILIES))]
    families = {family.name: family.help for family in table.FAMILIES}
    for word in _command_words():
        text = families.get(word) or _help_of(word)
        lines.append(f"complete -c lafs -n '__lafs_at' -a {word} -d {_fish_quoted(text.rstrip('.'))}\n")
    for family in table.FAMILIES:
        for row in table.family(family.name):
            if not row.hidden:
                member, text = row.name.split()[1], _fish_quoted(row.help.rstrip("."))
                lines.append(f"complete -c lafs -n '__lafs_at {family.name}' -a {member} -d {text}\n")
    lines += [f"complete -c lafs {_fish_flag(flag)}\n" for flag in general]
    lines.append("complete -c lafs -n '__lafs_at' -l version -d 'Show the version'\n")
    for usage in usages:
        where = f"complete -c lafs -n '__lafs_at {usage.name}'"
        lines += [f"{where} {_fish_flag(flag)}\n" for flag in usage.flags]
        kinds = {word.kind for word in usage.arguments}
        choices = [choice for word in usage.arguments for choice in word.choices]
        if choices:
            lines.append(f"{where} -a {_fish_quoted(' '.join(choices))}\n")
        if kinds & {"file", "target", "dir"}:
            lines.append(f"{where} -F\n")
        if "target" in kinds:
            lines.append(f"{where} -a '(__lafs_at_files) (__lafs_aliases :)'\n")
        if "alias" in kinds:
            lines.append(f"{where} -a '(__lafs_aliases)'\n")
    return "".join(lines)


def _fish_flag(flag: Flag) -> str:
    parts = [f"-{'l' if name.startswith('--') else 's'} {name.lstrip('-')}" for name in flag.names]
    if flag.value is not None:
        if flag.value.choices:
            parts.append(f"-x -a {_fish_quoted(' '.join(flag.value.choices))}")
        elif flag.value.kind == "dir":
            parts.append("-x -a '(__fish_complete_directories)'")
        else:
            parts.append("-r -F" if flag.value.kind else "-x")
    return " ".join([*parts, "-d", _fish_quoted(flag.help)])


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
