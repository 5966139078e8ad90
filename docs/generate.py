"""Writes the generated parts of the site; MkDocs runs it as a hook (`mkdocs.yml`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import click
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Pages whose text lies elsewhere in the repository, where people look for it.
_ELSEWHERE = {
    "guides/cluster-files.md": "cluster/README.md",
    "reference/changes.md": "CHANGELOG.md",
}
_COMMAND_LINE = "<!-- command line -->"
_METRICS = "<!-- metrics -->"
_RLLIB_SETTINGS = "<!-- rllib settings -->"


class Defaults(griffe.Extension):
    """Shows the default of each setting, where `PPGConfig.training` has `NotProvided`."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Is called by griffe for each function that it has read."""
        if func.path != "rllib_ppg.config.PPGConfig.training":
            return
        from rllib_ppg import PPGConfig

        defaults = PPGConfig()
        for parameter in func.parameters:
            if str(parameter.default) == "NotProvided":
                parameter.default = repr(getattr(defaults, parameter.name))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from elsewhere in the repository."""
    for page, source in _ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=os.path.abspath(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what is generated."""
    folder = os.path.dirname(page.file.src_uri) or "."
    for elsewhere, source in _ELSEWHERE.items():
        # On GitHub a link leads to the file itself, in the site to its page.
        link = os.path.relpath(source, os.path.join("docs", folder))
        markdown = markdown.replace(f"]({link}", f"]({os.path.relpath(elsewhere, folder)}")
    if page.file.src_uri in _ELSEWHERE:
        return _fix_links(markdown)
    if _COMMAND_LINE in markdown:
        return markdown.replace(_COMMAND_LINE, _command_line())
    if _METRICS in markdown:
        return markdown.replace(_METRICS, _metrics())
    if _RLLIB_SETTINGS in markdown:
        return markdown.replace(_RLLIB_SETTINGS, _rllib_settings())
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links the pages that docstrings name, as in "docs/results.md", and that notebooks link."""

    def link(match: re.Match[str]) -> str:
        target = files.get_file_from_path(match[1])
        assert target is not None, f"{page.file.src_uri} names {match[0]}, which does not exist"
        return f'<a href="{target.url_relative_to(page.file)}">{match[0]}</a>'

    if page.file.src_uri.endswith(".ipynb"):
        return re.sub(r'href="(\.\./[\w/-]+)\.md', r'href="\1.html', html)
    if not page.file.src_uri.startswith("reference/"):
        return html
    return re.sub(r"\bdocs/([\w/-]+\.md)", link, html)


def _fix_links(markdown: str) -> str:
    """Makes links to docs/ links within the site, and those to other files their names."""
    markdown = re.sub(r"\]\((?:\.\./)?docs/", "](../", markdown)
    return re.sub(r"\[[^]]+\]\((?!\.\./|#|https?:)([^)]+)\)", r"`\1`", markdown)


def _command_line() -> str:
    from rllib_ppg_cli.commands import rllib

    return "\n\n".join(_help(rllib, "rllib"))


def _help(command: click.Command, name: str) -> Iterator[str]:
    """Help of a command and of its sub-commands, as sections in Markdown."""
    formatter = _MarkdownFormatter()
    command.format_help(
        click.Context(command, info_name=name, **command.context_settings), formatter
    )
    yield f"## {name}\n\n{formatter.getvalue()}"
    if isinstance(command, click.Group):
        for sub_name, sub_command in command.commands.items():
            yield from _help(sub_command, f"{name} {sub_name}")


class _MarkdownFormatter(click.HelpFormatter):
    """Writes what `--help` prints as Markdown, with a table for each group of options."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.write(f"    {prog} {args}\n")

    def write_heading(self, heading: str) -> None:
        self._heading = heading

    def write_text(self, text: str) -> None:
        if "\b" in text:  # click's mark of lines that are not to be wrapped
            self.write("\n```text" + text.replace("\b", "").rstrip() + "\n```\n")
        else:
            self.write(f"\n{text}\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], *args: Any, **kwargs: Any) -> None:
        self.write(f"\n| {self._heading} | |\n|---|---|\n")
        for name, meaning in rows:
            self.write(f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |\n")


def _rllib_settings() -> str:
    from rllib_ppg import PPGConfig
    from rllib_ppg.rllib_settings import settings_by_method

    defaults = PPGConfig()
    lines = ["| method | settings and defaults |", "|---|---|"]
    for method, names in settings_by_method().items():
        shown = ", ".join(f"`{name}={_shown(vars(defaults), name)}`" for name in names)
        lines.append(f"| `{method}` | {shown} |")
    return "\n".join(lines)


def _shown(settings: dict[str, Any], name: str) -> str:
    """A setting's default; of functions and classes only the name."""
    value = settings.get(name, settings.get(f"_{name}"))
    return str(getattr(value, "__name__", repr(value))).replace("|", chr(92) + "|")


def _metrics() -> str:
    from rllib_ppg.metrics import METRICS

    sections = []
    for title, metrics in METRICS.items():
        rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in metrics.items())
        sections.append(f"## {title}\n\n| metric | meaning |\n|---|---|\n{rows}")
    return "\n\n".join(sections)
