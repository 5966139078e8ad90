"""A report as one page in HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import jinja2
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from rllib_ppg.plots.final_table import in_short
from rllib_ppg.plots.results import read_results
from rllib_ppg.reports import curves, run_files
from rllib_ppg.reports.legend import Redact, legend
from rllib_ppg.reports.past_runs import past_runs, when
from rllib_ppg.reports.sections import is_shown, sections
from rllib_ppg.reports.settings import changed_settings

_DATA = Path(__file__).parent / "data"


def make_page(runs: Sequence[str], redact: Redact) -> str:
    """Reads runs and returns a page about them, which needs no other file and no network.

    Args:
        runs: Paths or URIs of trials' folders, or of folders that hold some, however deep.
        redact: Returns a text without secrets.

    Raises:
        ValueError: If a folder has no results.
    """
    trials = read_results(runs, is_shown)
    entries = legend(trials, redact)
    named = [(entry, name, trial) for entry in entries for name, trial in entry.titled()]
    return _template(redact).render(
        title=", ".join(dict.fromkeys(trial.run for trial in trials)),
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        entries=entries,
        named=named,
        sections=sections(entries),
        mark_every=max(map(curves.mark_every, trials)),
        max_points=curves.MAX_POINTS,
        is_thinned=max(len(trial.env_steps) for trial in trials) > curves.MAX_POINTS,
        evaluations=[(*of, x) for *of, trial in named for x in run_files.evaluations(trial)],
        videos=[(*of, x) for *of, trial in named for x in run_files.newest_video(trial)],
        settings=changed_settings(entries, redact),
        past=past_runs(trials, redact),
        curves=curves,
        files=run_files,
        css=Markup((_DATA / "report.css").read_text()),
        script=Markup((_DATA / "report.js").read_text()),
        plotly=Markup(get_plotlyjs()),
    )


def _code(text: str) -> Markup:
    """Text with `code` as HTML."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _template(redact: Redact) -> jinja2.Template:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_DATA),
        autoescape=True,
        # All texts of the page, and not what is already HTML.
        finalize=lambda value: redact(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"when": when, "in_short": in_short, "code": _code}
    return env.get_template("report.html")
