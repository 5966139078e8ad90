"""Writes the generated parts of the site; MkDocs runs it as a hook (`mkdocs.yml`)."""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any

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
_COMMANDS = (
    "train",
    "submit",
    "evaluate",
    "record",
    "plot",
    "export",
    "example list",
    "example get",
    "example run",
)


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
    if page.file.src_uri in _ELSEWHERE:
        return _fix_links(markdown)
    if _COMMAND_LINE in markdown:
        return markdown.replace(_COMMAND_LINE, _command_line())
    if _METRICS in markdown:
        return markdown.replace(_METRICS, _metrics())
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links of the pages that docstrings name, as in "docs/results.md"."""

    def link(match: re.Match[str]) -> str:
        target = files.get_file_from_path(match[1])
        assert target is not None, f"{page.file.src_uri} names {match[0]}, which does not exist"
        return f'<a href="{target.url_relative_to(page.file)}">{match[0]}</a>'

    if not page.file.src_uri.startswith("reference/"):
        return html
    return re.sub(r"\bdocs/([\w/-]+\.md)", link, html)


def _fix_links(markdown: str) -> str:
    """Makes links to docs/ links within the site, and those to other files their names."""
    markdown = re.sub(r"\]\((?:\.\./)?docs/", "](../", markdown)
    return re.sub(r"\[[^]]+\]\((?!\.\./|#|https?:)([^)]+)\)", r"`\1`", markdown)


def _command_line() -> str:
    sections = [f"```text\n{_help([])}\n```"]
    for command in _COMMANDS:
        sections.append(f"## rllib {command}\n\n```text\n{_help(command.split())}\n```")
    return "\n\n".join(sections)


def _help(command: list[str]) -> str:
    from rllib_ppg_cli import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return text.getvalue().strip()


def _metrics() -> str:
    from rllib_ppg.metrics import METRICS

    sections = []
    for title, metrics in METRICS.items():
        rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in metrics.items())
        sections.append(f"## {title}\n\n| metric | meaning |\n|---|---|\n{rows}")
    return "\n\n".join(sections)
