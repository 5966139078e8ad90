"""`rllib report`: a page about finished and running runs."""

from __future__ import annotations

from collections.abc import Sequence

from rllib_ppg_cli import exit_code
from rllib_ppg_cli.checkpoint import check_out
from rllib_ppg_cli.redact import redact


def main(runs: Sequence[str], *, out: str) -> int:
    """Writes a page about runs.

    Args:
        runs: Folders or URIs of experiments or trials.
        out: The page to write.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input, or if a package is missing.
    """
    file = check_out(out)
    if file.suffix != ".html":
        raise ValueError(f"{file} must end in .html")
    try:
        from rllib_ppg.reports.page import make_page
    except ModuleNotFoundError as e:
        raise ValueError(
            f"a report needs the package {e.name}: pip install 'rllib-ppg[report]'"
        ) from e
    file.write_text(make_page(runs, redact), encoding="utf-8")
    print(f"report: {file}")
    return exit_code.OK
