"""Draws the picture of docs/performance.md from the JSON of `benchmarks.throughput`.

Also prints the table there:

    python -m benchmarks.plot_throughput docs/throughput.json docs/throughput.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MET, UNSURE, MISSED = "#2b7a78", "#9a9a9a", "#c8553d"


def main(source: str, target: str) -> None:
    """One bar a figure: how far it is from its target, on a logarithmic scale."""
    data = json.loads(Path(source).read_text())
    print_table(data["rows"])
    rows = [r for r in data["rows"] if r["value"] is not None and r["target"] is not None]
    # Above 1 is better than the target, for targets that are lower bounds and for upper ones.
    margins = [
        r["value"] / r["target"] if r["at_least"] else r["target"] / max(r["value"], 1e-4)
        for r in rows
    ]
    shown = [min(m, 30.0) for m in margins]
    fig, ax = plt.subplots(figsize=(10, 0.48 * len(rows) + 1.6))
    colour = {"met": MET, "too noisy": UNSURE, "not met": MISSED}
    colours = [colour[r["verdict"]] for r in rows]
    ax.barh(range(len(rows)), [m - 1 for m in shown], left=1, color=colours, height=0.6)
    for i, (r, m) in enumerate(zip(rows, shown, strict=True)):
        sign = "≥" if r["at_least"] else "≤"
        text = f"{r['value']:.3g}  (target {sign} {r['target']:g})"
        ax.text(max(m, 1) * 1.04, i, text, va="center", fontsize=8)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_xscale("log")
    ax.set_xlim(0.7, 200)
    ax.set_xticks([1, 2, 5, 10, 20], ["target", "2 x", "5 x", "10 x", "20 x"], fontsize=8)
    ax.set_yticks(range(len(rows)), [r["name"] for r in rows], fontsize=8)
    ax.invert_yaxis()
    ax.minorticks_off()
    ax.set_xlabel("how much better than the target (right of the line: met)", fontsize=8)
    where = data["gpu"] or data["cpu"]
    ax.set_title(f"{where}; torch {data['torch']}, Ray {data['ray']}; {data['date']}", fontsize=9)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    fig.tight_layout()
    fig.savefig(target, dpi=130)


def print_table(rows: list[dict[str, Any]]) -> None:
    """The figures as Markdown, with what they are made of."""
    print("| what | target | figure | | from |\n|---|---|---|---|---|")
    for r in rows:
        target = "" if r["target"] is None else f"{'≥' if r['at_least'] else '≤'} {r['target']:g}"
        value = "-" if r["value"] is None else f"{r['value']:.3g}"
        if r["interval"]:
            value += " ({:.3g} to {:.3g})".format(*r["interval"])
        verdict = {"not met": "**not met**"}.get(r["verdict"], r["verdict"])
        detail = ", ".join(f"{k}: {v}" for k, v in r["detail"].items())
        print(f"| {r['name']} | {target} | {value} | {verdict} | {detail} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
