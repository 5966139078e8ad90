"""Writes the generated parts of the site; MkDocs runs it as a hook (`mkdocs.yml`)."""

from __future__ import annotations

import contextlib
import io
import os
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Pages whose text lies elsewhere in the repository, where people look for it.
_ELSEWHERE = {
    "guides/cluster-files.md": "cluster/README.md",
    "reference/changes.md": "CHANGELOG.md",
}
_COMMANDS = (
    "train",
    "train file",
    "submit",
    "example list",
    "example get",
    "example run",
    "evaluate",
    "record",
    "plot",
    "export",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from elsewhere in the repository."""
    for page, source in _ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=os.path.abspath(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills in what is generated."""
    if page.file.src_uri in _ELSEWHERE:
        return _fix_links(markdown)
    return (
        markdown.replace("<!-- command line -->", _command_line())
        if "<!-- command line -->" in markdown
        else markdown
    )


def _fix_links(markdown: str) -> str:
    """Links to docs/ become links within the site; those to other files become plain text."""
    markdown = re.sub(r"\]\((?:\.\./)?docs/", "](../", markdown)
    return re.sub(r"\[([^]]+)\]\((?!\.\./|#|https?:)[^)]+\)", r"\1", markdown)


def _command_line() -> str:
    sections = [f"```text\n{_help([])}\n```"]
    for command in _COMMANDS:
        sections.append(f"## rllib {command}\n\n```text\n{_help(command.split())}\n```")
    return "\n\n".join(sections)


def _help(command: list[str]) -> str:
    from rllib_ppg.cli import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return text.getvalue().strip()
