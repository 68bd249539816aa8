"""Options of every command, before or after its name, and the `command` decorator (CLI.md §1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import click

from lafscli import __version__
from lafscli.cli import table
from lafscli.config import environment
from lafscli.config.quantities import parse_duration, parse_size, parse_switch
from lafscli.errors import UsageError
from lafscli.placement import Encoding


@dataclass(slots=True)
class Settings:
    """The options of every command; None is "nobody said". Flag before environment before configuration."""

    json: bool | None = None
    quiet: bool | None = None
    verbose: int | None = None
    progress: bool | None = None
    color: str | None = None
    log_file: str | None = None
    limit_rate: int | None = None
    timeout: int | None = None
    home: str | None = None

    def adopt_environment(self) -> None:
        """Take what the LAFS_… variables say: `json` first, for it gives the errors of the others their shape."""
        for field in fields(self):
            name = f"LAFS_{field.name.upper()}"
            text = environment.variable(name)
            if text is not None:
                setattr(self, field.name, parse_setting(field.name, text, name))

    def adopt(self, table: dict[str, Any]) -> None:
        """Take from the configuration what neither a flag nor the environment said."""
        for field in fields(self):
            key = field.name.replace("_", "-")
            if field.name != "home" and key in table and getattr(self, field.name) is None:
                setattr(self, field.name, parse_setting(field.name, table[key], f"config.toml: {key}"))

    def copy(self) -> Settings:
        """A copy that can be changed on its own."""
        return Settings(**{field.name: getattr(self, field.name) for field in fields(self)})


def parse_setting(name: str, value: object, where: str) -> bool | int | str:
    """The value of a setting from its text, or from what TOML made of it; UsageError names `where` it stood."""
    text = str(value)
    try:
        if name in ("json", "quiet", "progress"):
            return parse_switch(text)
        if name == "verbose":
            if text.isdecimal() and text.isascii():
                return int(text)
            raise UsageError(f"not a number: {text!r}")
        if name == "limit_rate":
            rate = parse_size(text)
            if rate == 0:
                raise UsageError("a rate of 0 would never end", hint="leave the option out for no limit")
            return rate
        if name == "timeout":
            seconds = parse_duration(text)
            if seconds == 0:
                raise UsageError("a timeout of 0 would always strike", hint="60s is the default")
            return seconds
        if name == "color" and text not in ("auto", "always", "never"):
            raise UsageError(f"not one of auto, always, never: {text!r}")
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from error
    return text


class Quantity(click.ParamType):  # type: ignore[type-arg]
    """A click type that is one of our parsers."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value; what the parser refuses is a usage error of that option."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except UsageError as error:
            self.fail(f"{error.message}{f'; {error.hint}' if error.hint else ''}", param, ctx)


SIZE = Quantity("SIZE", parse_size)
DURATION = Quantity("DURATION", parse_duration)
ENCODING = Quantity("K/H/N", Encoding.parse)


class GlobalOption(click.Option):
    """An option of every command: kept out of each command's own list of options."""


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep a global option that stands on the command line."""
    name = param.name or ""
    if ctx.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE or ctx.resilient_parsing:
        return
    settings: Settings = ctx.obj.settings
    if ctx.obj.base is not None and name in ("home", "limit_rate", "timeout", "log_file"):
        raise UsageError(f"--{name.replace('_', '-')} belongs to the batch, not to one line of it")
    if name == "verbose":
        before = ctx.find_root().meta.setdefault("lafs.verbose", 0)
        ctx.find_root().meta["lafs.verbose"] = before + value
        settings.verbose = before + value
    else:
        if name in ("limit_rate", "timeout"):
            value = parse_setting(name, value, f"--{name.replace('_', '-')}")
        setattr(settings, name, value)


def global_options() -> list[click.Parameter]:
    """The options of `table.OPTIONS`, for one command; help itself is click's."""
    made: list[click.Parameter] = []
    for row in table.OPTIONS:
        attributes: dict[str, Any] = {"help": row.help, "expose_value": False, "callback": _remember, "is_eager": True}
        if row.flags == ("-v", "--verbose"):
            attributes["count"] = True
        elif row.metavar.count("|"):
            attributes["type"] = click.Choice(row.metavar.split("|"))
        elif row.metavar:
            attributes["metavar"] = row.metavar
        elif "/" in row.flags[0]:
            attributes["default"] = None
        else:
            attributes["is_flag"] = True
        if "--help" not in row.flags:
            made.append(GlobalOption(list(row.flags), **attributes))
    return made


def written_help(option: click.Option | None) -> click.Option | None:
    """Click's --help, its text written as every answer is."""

    def show(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            ctx.obj.out.write(ctx.get_help() + "\n")
            ctx.exit()

    if option is not None:
        option.callback = show
    return option


class LafsCommand(click.Command):
    """A command that also takes the options of every command, and shows only its own in its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {"help_option_names": ["-h", "--help"]}
        super().__init__(*args, **kwargs)
        self.params.extend(global_options())

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """--help."""
        return written_help(super().get_help_option(ctx))

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, with the log open if one is wanted."""
        ctx.obj.out.open_log()
        ctx.obj.out.event("begin", command=ctx.command_path, version=__version__)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own options, then a word about those of every command."""
        own = [
            param
            for param in self.get_params(ctx)
            if isinstance(param, click.Option) and not isinstance(param, GlobalOption)
        ]
        records = [record for record in (param.get_help_record(ctx) for param in own) if record is not None]
        with formatter.section("Options"):
            formatter.write_dl(records)
        with formatter.section("Options of every command"):
            formatter.write_text(", ".join(row.flags[-1].split("/")[0] for row in table.OPTIONS) + ": lafs --help")


def command(name: str, **attributes: Any) -> Callable[[Callable[..., None]], click.Command]:
    """Make the click command `name` of a function whose first argument is the Frame."""

    def decorate(function: Callable[..., None]) -> click.Command:
        made = click.command(name.split()[-1], cls=LafsCommand, **attributes)(click.pass_obj(function))
        assert isinstance(made, click.Command)
        return made

    return decorate


def respelled(name: str, made: click.Command, **fixed: Any) -> click.Command:
    """A command under another name (CLI.md §3: Tahoe's spellings); what is fixed is no option there."""
    does: Callable[..., Any] | None = made.callback
    assert does is not None, "every command does something"

    def run(**given: Any) -> None:
        does(**given, **fixed)

    params = [each for each in made.params if each.name not in fixed and not isinstance(each, GlobalOption)]
    return LafsCommand(name, callback=run, params=params, help=made.help)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether --json stands among arguments that could not be parsed, for the shape of that error."""
    ours = list(arguments)
    return "--json" in (ours[: ours.index("--")] if "--" in ours else ours)
