"""Click's classes as the `rllib` command uses them: help in groups, values in YAML, `-v`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource
from typing_extensions import override

from rllib_ppg_cli.quiet import keep_quiet

VERBOSE = f"{__name__}.verbose"


class Command(click.Command):
    """A sub-command whose help lists its options in groups.

    Args:
        name: Its name.
        usage: The lines that show how to call it, without "rllib".
        option_groups: Its options by the title of their group.
        params: Its arguments.
        kwargs: Other arguments of `click.Command`.
    """

    def __init__(
        self,
        name: str | None,
        *,
        usage: Sequence[str],
        option_groups: Mapping[str, Sequence[click.Option]],
        params: Sequence[click.Parameter] | None = None,
        **kwargs: Any,
    ) -> None:
        groups = {**option_groups, "Other": [VERBOSE_OPTION]}
        options = [option for group in groups.values() for option in group]
        super().__init__(name, params=[*(params or ()), *options], **kwargs)
        self._usage, self._groups = usage, groups

    @override
    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for i, line in enumerate(self._usage):
            formatter.write_usage("rllib", line, prefix="       " if i else "Usage: ")

    @override
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, options in self._groups.items():
            if title == "Other" and (help_option := self.get_help_option(ctx)):
                options = [*options, help_option]
            with formatter.section(title):
                records = [option.get_help_record(ctx) for option in options]
                formatter.write_dl([record for record in records if record], col_max=32)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        verbose = ctx.meta[VERBOSE]
        keep_quiet(verbose)
        # As `python FILE` and `python -m` do, for modules with the user's envs and networks.
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        # Before the commands import RLlib, and with it torch: see `resources.shared_machine`.
        import rllib_ppg  # noqa: F401

        try:
            return super().invoke(ctx)
        except Exception as error:
            if verbose > 1:
                traceback.print_exception(error)
            raise


class Group(click.Group):
    """A group that lists its sub-commands in the order of their definition."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class YAMLMapping(click.ParamType[Mapping[str, Any]]):
    """A mapping in YAML or JSON, as in `{"a": 1}`."""

    name = "{...}"

    @override
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Mapping[str, Any]:
        parsed = _parse(self, value, "it", param, ctx)
        if not isinstance(parsed, Mapping):
            self.fail(f"it must be a mapping as in '{{\"a\": 1}}', not {value!r}", param, ctx)
        return parsed


class Setting(click.ParamType[Mapping[str, Any]]):
    """`a.b=value`, the value in YAML, which becomes `{"a": {"b": value}}`."""

    name = "KEY=VALUE"

    @override
    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Mapping[str, Any]:
        path, equals, text = value.partition("=")
        if not equals or not all(path.split(".")):
            self.fail(f"it must be KEY=VALUE, as in n_pi=4, not {value!r}", param, ctx)
        parsed = _parse(self, text, path, param, ctx)
        for key in reversed(path.split(".")):
            parsed = {key: parsed}
        return parsed


def _parse(
    kind: click.ParamType[Any],
    text: str,
    name: str,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    if ctx and ctx.resilient_parsing:  # a shell asks how to complete a line, and wants it soon
        return {}
    from rllib_ppg.experiments.experiment_file import parse_yaml

    try:
        return parse_yaml(text, name)
    except ValueError as error:
        kind.fail(str(error), param, ctx)


def _remember(ctx: click.Context, param: click.Parameter, verbose: int) -> None:
    ctx.meta[VERBOSE] = verbose


VERBOSE_OPTION = click.Option(
    ["-v", "verbose"],
    count=True,
    expose_value=False,
    callback=_remember,
    help="Show Ray's logs and the workers' output; -vv also shows tracebacks.",
)


def given(ctx: click.Context) -> dict[str, Any]:
    """Returns the options and arguments that the user gave, by name."""
    options = {
        name: value
        for name, value in ctx.params.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    return options | {"verbose": ctx.meta[VERBOSE]}
