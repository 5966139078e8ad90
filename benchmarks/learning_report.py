"""Writes the tables and pictures of the results' pages from the rows in docs/results.

In docs/results/*.md, text between `<!-- SUITE -->` and `<!-- /SUITE -->` is replaced by the suite's
table. The suite's curves go to docs/results/SUITE.png. The runs of `phases.py` go to `phases` and
phases.png in the same way, and what `batch_size.py` makes of its suites to `batch_size`.
`benchmarks/suites/` says how a result is read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rliable import library, metrics

from benchmarks import batch_size, diagnostics_report, phases_report
from benchmarks.learning_rows import RESULTS, read_rows
from benchmarks.suites import SUITES
from rllib_ppg.envs.procgen import GAMES, normalized_return
from rllib_ppg.plots import openai_curves

PAGES = Path("docs/results")
LAST = 0.1  # of a run's env steps, which its result is taken from
BASELINE = "ppo"
MIN_SEEDS = 3  # of an interval: a bootstrap over two makes it far too small
BUDGETS = 1e6 * np.array([8, 16, 25, 50, 100])  # env steps
OPENAI_BATCH = 65_536  # env steps of an iteration: 4 workers of 64 envs and 256 steps

# (env steps, returns), `[points]` each.
Curve = tuple[np.ndarray, np.ndarray]
# By env and arm, then by seed.
Curves = Mapping[tuple[str, str], Mapping[int, Curve]]


def read(suite: str) -> Curves:
    """The complete runs of a suite, and beside them OpenAI's."""
    curves: dict[tuple[str, str], dict[int, Curve]] = defaultdict(dict)
    for path in sorted((RESULTS / suite).glob("*.csv")):
        rows = read_rows(path)
        points = [
            (float(r["env_steps"]), float(r["episode_return"])) for r in rows if r["episode_return"]
        ]
        steps, returns = np.array(points).T
        curves[rows[0]["env"], rows[0]["algo"]][int(rows[0]["seed"])] = steps, returns
    for env in envs_of(suite, curves):
        for experiment in SUITES[suite].openai:
            published = openai_curves.curve(experiment, env.split("-")[1])
            for i, run in enumerate(published.until(SUITES[suite].env_steps).seeds):
                curves[env, openais(experiment)][i] = run.env_steps, run.returns
    return curves


def openais(experiment: str) -> str:
    """What one of OpenAI's experiments is called beside our arms."""
    return f"OpenAI's {experiment}"


def arms_of(suite: str) -> list[str]:
    """The suite's arms, then OpenAI's experiments."""
    return [*SUITES[suite].arms, *map(openais, SUITES[suite].openai)]


def envs_of(suite: str, curves: Curves) -> list[str]:
    """The suite's tasks that something has been trained on."""
    return [env for env in SUITES[suite].envs if any(env == key[0] for key in curves)]


def results(curves: Curves) -> dict[tuple[str, str], np.ndarray]:
    """Each run's result, by env and arm."""
    return {
        key: np.array(
            [returns[steps > (1 - LAST) * steps[-1]].mean() for steps, returns in seeds.values()]
        )
        for key, seeds in curves.items()
    }


def scores(suite: str, found: Mapping[tuple[str, str], np.ndarray]) -> dict[str, np.ndarray]:
    """`[seeds, tasks]` of each arm that has been run on all tasks, by the baseline's mean."""
    out = {}
    envs = SUITES[suite].envs
    for arm in SUITES[suite].arms:
        if all((env, a) in found for env in envs for a in (arm, BASELINE)):
            n = min(len(found[env, arm]) for env in envs)
            columns = [found[env, arm][:n] / found[env, BASELINE].mean() for env in envs]
            out[arm] = np.stack(columns, axis=1)
    return out


def on_a_grid(seeds: Mapping[int, Curve], env_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """100 points in env steps, and the returns of each seed there, `[seeds, 100]`."""
    first = max(steps[0] for steps, _ in seeds.values())
    grid = np.linspace(first, env_steps, 100)
    return grid, np.stack([np.interp(grid, *curve) for curve in seeds.values()])


def table(suite: str, curves: Curves) -> str:
    """The suite's table, as Markdown: a row an arm."""
    found, envs = results(curves), envs_of(suite, curves)
    by_arm = {arm: x for arm, x in scores(suite, found).items() if len(x) >= MIN_SEEDS}
    np.random.seed(0)  # rliable draws from this, whatever random_state it is given
    iqm, intervals = library.get_interval_estimates(
        by_arm,
        lambda x: np.array([metrics.aggregate_iqm(x)]),
        reps=10_000,
    )
    scored = BASELINE in SUITES[suite].arms
    head = [*envs, *(["IQM of scores [95 %]", f"M env steps to {BASELINE}"] if scored else [])]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for arm in arms_of(suite):
        cells = [cell(found.get((env, arm), np.array([]))) for env in envs]
        if not any(cells):
            continue
        if scored:
            score = ""
            if arm in iqm:
                (low,), (high,) = intervals[arm]
                score = f"{iqm[arm][0]:.2f} [{low:.2f}, {high:.2f}]"
            steps = (steps_to_baseline(suite, curves, found, env, arm) for env in envs)
            cells += [score, " / ".join(steps)]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def steps_to_baseline(
    suite: str, curves: Curves, found: Mapping[tuple[str, str], np.ndarray], env: str, arm: str
) -> str:
    """Million env steps until the mean over the arm's seeds reaches the baseline's result."""
    if (env, arm) not in curves or (env, BASELINE) not in curves:
        return "?"
    grid, returns = on_a_grid(curves[env, arm], SUITES[suite].env_steps)
    there = grid[returns.mean(0) >= found[env, BASELINE].mean()]
    return f"{there[0] / 1e6:.2f}" if len(there) else "-"


def cell(x: np.ndarray) -> str:
    """Mean ± standard deviation over seeds, in three digits or all before the point."""
    if not len(x):
        return ""
    mean = x.mean()
    digits = sum(abs(mean) < limit for limit in (10, 100))
    spread = f" ± {x.std(ddof=1):,.{digits}f}" if len(x) > 1 else ""
    return f"{mean:,.{digits}f}{spread} ({len(x)})"


def draw(suite: str, curves: Curves) -> None:
    """Mean over seeds and the range of all of them, for each task and each setting."""
    envs = envs_of(suite, curves)
    rows: dict[str, list[str]] = defaultdict(list)
    for arm in arms_of(suite):
        if any((env, arm) in curves for env in envs):
            setting, is_one, _ = arm.partition("=")
            rows[setting if is_one else ""].append(arm)
    high, wide = sorted((len(rows), len(envs)))
    figure, axes = plt.subplots(
        high, wide, figsize=(3.4 * wide, 2.8 * high), layout="constrained", squeeze=False
    )
    for i, arms in enumerate(rows.values()):
        for ax, env in zip(axes[i] if high == len(rows) else axes[:, i], envs, strict=True):
            for arm in [*SUITES[suite].arms][:1] * (i > 0) + arms:
                if (env, arm) in curves:
                    _draw_arm(ax, arm, curves[env, arm], SUITES[suite].env_steps)
            ax.set(title=env, xlabel="million env steps", ylabel="return")
            ax.legend()
    figure.savefig(RESULTS / f"{suite}.png", dpi=80)
    plt.close(figure)


def _draw_arm(ax: Axes, arm: str, seeds: Mapping[int, Curve], env_steps: int) -> None:
    grid, lines = on_a_grid(seeds, env_steps)
    (line,) = ax.plot(grid / 1e6, lines.mean(0), label=f"{arm} ({len(seeds)})")
    ax.fill_between(grid / 1e6, lines.min(0), lines.max(0), alpha=0.15, color=line.get_color())


def budgets_table() -> str:
    """What N_pi was best for which budget in OpenAI's sweep, and how many phases that makes."""
    found = {name: _at_budgets(name) for name in openai_curves.sweep("n_pi")}
    best = np.max(list(found.values()), axis=0)
    rows = {}
    for name, values in found.items():
        n_pi = name.split("=")[1]
        phases = BUDGETS / (int(n_pi) * OPENAI_BATCH)
        bold = np.where(values == best, "**", "")
        rows[n_pi] = [
            f"{b}{value:.3f}{b} ({n:.0f})" for b, value, n in zip(bold, values, phases, strict=True)
        ]
    return _budgets("N_pi", rows)


def openai_table() -> str:
    """What OpenAI's other experiments have at the same budgets, for headers of tuned_examples."""
    names = ["ppg", "ppo", "ppg_single", "ppgkl", *openai_curves.sweep("e_aux")]
    return _budgets("", {name: [f"{x:.3f}" for x in _at_budgets(name)] for name in names})


def _budgets(what: str, rows: Mapping[str, list[str]]) -> str:
    head = [f"{budget / 1e6:.0f}M" for budget in BUDGETS]
    lines = [f"| {what} | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(x)} |" for name, x in rows.items())])


def _at_budgets(experiment: str) -> np.ndarray:
    """`[budgets]`: normalised returns over 16 games, means of the last 5 % of so many env steps."""
    returns = np.zeros((len(GAMES), len(BUDGETS)))
    for i, game in enumerate(GAMES):
        curve = openai_curves.curve(experiment, game)
        for j, budget in enumerate(BUDGETS):
            mean = float(curve.until(budget).finals().mean())
            returns[i, j] = normalized_return(game, "hard", mean)
    return returns.mean(0)


def report(suites: list[str]) -> None:
    """Writes tables and pictures."""
    tables = {"budgets": budgets_table(), "openai": openai_table()}
    for suite in suites:
        curves = read(suite)
        if not curves:
            continue
        draw(suite, curves)
        tables[suite] = table(suite, curves)
    if areas := areas_of(suites):
        tables["batch_size"] = batch_size.table(areas)
    if played := phases_report.read():
        phases_report.draw(played)
        tables["phases"] = phases_report.table(played)
    if measured := diagnostics_report.read():
        tables["diagnostics"] = diagnostics_report.table(measured)
    pages = {path: path.read_text() for path in PAGES.glob("*.md")}
    for name, new in tables.items():
        path = next(path for path, page in pages.items() if f"<!-- {name} -->" in page)
        pages[path] = filled_in(pages[path], name, new)
    for path, page in pages.items():
        path.write_text(page)
        print(f"wrote {path}")


def areas_of(suites: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """The returns of the suites that are about the batch's size, by task and arm."""
    areas: dict[str, dict[str, np.ndarray]] = {}
    for suite in suites:
        if suite.startswith("batch_size"):
            for (env, arm), seeds in read(suite).items():
                areas.setdefault(env, {})[arm] = on_a_grid(seeds, SUITES[suite].env_steps)[1]
    return areas


def filled_in(page: str, name: str, new: str) -> str:
    """Returns the page with new text between the comments of this name."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    return place.sub(lambda match: f"{match[1]}{new}\n{match[2]}", page)
