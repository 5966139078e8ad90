import csv
import gzip
import re
import shlex

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from benchmarks import thin_openai_curves
from rllib_ppg.envs.procgen import GAMES, normalized_return
from rllib_ppg.plots import openai_curves, pictures
from rllib_ppg.plots.curves import Curve, Points
from rllib_ppg.plots.final_table import final_table, sweep_table
from rllib_ppg.plots.panels import (
    add_reference,
    by_environment,
    find_setting,
    mean_over_games,
)
from rllib_ppg.plots.results import read_trials
from rllib_ppg_cli import main
from tests.support.command import run
from tests.support.trial_folders import ramp, write_trial


def points(steps, returns):
    return Points(np.array(steps, float), np.array(returns, float))


def labels(panel):
    return [curve.label for curve in panel.curves]


# The numbers.


def test_the_final_return_is_the_mean_over_the_last_five_percent_of_steps():
    hundred = points(range(1000, 101_000, 1000), range(1, 101))
    assert hundred.final() == np.mean([95, 96, 97, 98, 99, 100])
    assert points([10, 20], [1, 3]).final() == 3


def test_mean_and_spread_over_seeds():
    steps, mean, spread = Curve("", (points([1, 2], [0, 2]), points([1, 2], [2, 6]))).mean()
    assert steps.tolist() == [1, 2]
    assert mean.tolist() == [1, 4]
    np.testing.assert_allclose(spread, [2**0.5, 8**0.5])  # of a sample: n - 1
    assert np.isnan(Curve("", (points([1, 2], [0, 2]),)).mean()[2]).all()


def test_the_mean_is_where_all_seeds_are_and_linear_between_their_results():
    longer = points([0, 10, 20, 40], [0, 10, 20, 40])
    shorter = points([5, 25], [100, 120])
    steps, mean, _ = Curve("", (longer, shorter)).mean()
    assert steps.tolist() == [5, 10, 20, 25]
    assert mean.tolist() == [(5 + 100) / 2, (10 + 105) / 2, (20 + 115) / 2, (25 + 120) / 2]


def test_a_curve_cut_between_two_results():
    cut = points([10, 20, 30], [1, 2, 3]).until(25)
    assert (cut.env_steps.tolist(), cut.returns.tolist()) == ([10, 20, 25], [1, 2, 2.5])
    assert len(points([10, 20], [1, 2]).until(5).env_steps) == 0
    assert points([10, 20], [1, 2]).until(50).env_steps.tolist() == [10, 20]


# Which trials are one curve.


def test_seeds_are_one_curve_and_settings_are_told_apart(tmp_path):
    for seed in (0, 1, 2):
        for n_pi in (16, 4):
            write_trial(tmp_path / "ppg", [n_pi + seed], name=f"{n_pi}{seed}", seed=seed, n_pi=n_pi)
        write_trial(tmp_path / f"ppo_{seed}", [1.0], algo="PPO", seed=seed, lr=1e-3)
    [panel] = by_environment(read_trials(sorted(tmp_path.iterdir())))
    assert panel.title == "CartPole-v1"
    assert labels(panel) == ["PPG (n_pi=4)", "PPG (n_pi=16)", "PPO"]
    assert panel.curves[1].finals().tolist() == [16, 17, 18]

    [panel] = by_environment(read_trials([tmp_path / "ppg"]))
    assert labels(panel) == ["n_pi=4", "n_pi=16"]


def test_a_default_is_the_same_as_the_same_value_given(tmp_path):
    write_trial(tmp_path / "run", [1.0], name="0", seed=0, defaults={"n_pi": 32})
    write_trial(tmp_path / "run", [1.0], name="1", seed=1, n_pi=32)
    [panel] = by_environment(read_trials([tmp_path / "run"]))
    assert labels(panel) == ["PPG"]


def test_folders_tell_apart_what_nothing_else_does(tmp_path):
    write_trial(tmp_path / "old", [1.0], seed=0)
    write_trial(tmp_path / "new", [2.0], seed=0)
    [panel] = by_environment(read_trials([tmp_path / "old", tmp_path / "new"]))
    assert labels(panel) == ["new", "old"]


def test_a_seed_trained_again_in_one_run_counts_once(tmp_path):
    write_trial(tmp_path / "run", [9.0], name="b", seed=0, started=5)
    write_trial(tmp_path / "run", [1.0], name="c", seed=0, started=1)
    write_trial(tmp_path / "no_seed", [3.0], name="a")
    write_trial(tmp_path / "no_seed", [4.0], name="b")
    [panel] = by_environment(read_trials([tmp_path / "run"]))
    assert panel.curves[0].finals().tolist() == [9]
    for runs in ([tmp_path / "no_seed"], sorted((tmp_path / "no_seed").iterdir())):
        [panel] = by_environment(read_trials(runs))
        assert panel.curves[0].finals().tolist() == [3, 4]


def test_environments_have_panels_and_no_labels(tmp_path):
    easy = {"distribution_mode": "easy"}
    write_trial(tmp_path / "run", [1.0], name="0", env="procgen-maze-v0", lr=1.0)
    write_trial(tmp_path / "run", [1.0], name="1", env="procgen-maze-v0", lr=2.0, env_config=easy)
    write_trial(tmp_path / "run", [1.0], name="2", env="CartPole-v1", lr=3.0)
    panels = by_environment(read_trials([tmp_path / "run"]))
    assert [panel.title for panel in panels] == ["CartPole-v1", "maze (easy)", "maze (hard)"]
    assert [labels(panel) for panel in panels] == [["PPG"]] * 3


# Games averaged.


def test_the_mean_normalised_over_games(tmp_path):
    # Hard ranges: coinrun 5 to 10, starpilot 1.5 to 35.
    for seed, (coinrun, starpilot) in enumerate([(7.5, 35.0), (10.0, 1.5), (5.0, 35.0)]):
        write_trial(tmp_path / "a", [coinrun] * 3, env="procgen-coinrun-v0", seed=seed, name=seed)
        if seed < 2:
            env = "procgen-starpilot-v0"
            write_trial(tmp_path / "a", [starpilot] * 2, env=env, seed=seed, name=seed)
    write_trial(tmp_path / "a", [100.0], env="CartPole-v1")
    [mean] = mean_over_games(by_environment(read_trials([tmp_path / "a"])))
    assert (mean.title, mean.normalized, labels(mean)) == ("mean over 2 games", True, ["PPG"])
    steps, returns, spread = mean.curves[0].mean()
    assert steps.tolist() == [1000, 2000]
    assert returns.tolist() == [0.625, 0.625]  # of (0.5 + 1) / 2 and (1 + 0) / 2
    np.testing.assert_allclose(spread, np.std([0.75, 0.5], ddof=1))


def test_only_games_that_all_curves_have_are_averaged(tmp_path):
    for game in ("maze", "coinrun", "heist"):
        write_trial(tmp_path / "a", [10.0], env=f"procgen-{game}-v0")
    for game in ("maze", "coinrun"):
        write_trial(tmp_path / "b", [10.0], algo="PPO", env=f"procgen-{game}-v0")
    panels = by_environment(read_trials([tmp_path / "a", tmp_path / "b"]))
    assert [panel.title for panel in mean_over_games(panels)] == ["mean over 2 games"]
    assert mean_over_games(by_environment(read_trials([tmp_path / "a"])))[0].title.count("3")


def test_games_without_a_step_in_common_have_no_mean(tmp_path):
    write_trial(tmp_path / "a", [5.0], env="procgen-coinrun-v0")  # it ended before
    write_trial(tmp_path / "a", [None, 4.0, 4.1], env="procgen-maze-v0")
    assert mean_over_games(by_environment(read_trials([tmp_path / "a"]))) == []


@pytest.mark.parametrize(
    ("envs", "mode"), [(["maze"], "hard"), (["maze", "heist"], "memory")]
)  # no ranges are published for memory mode
def test_nothing_to_average(tmp_path, envs, mode):
    for game in envs:
        config = {"distribution_mode": mode}
        write_trial(tmp_path / "a", [10.0], env=f"procgen-{game}-v0", env_config=config)
    assert mean_over_games(by_environment(read_trials([tmp_path / "a"]))) == []


# OpenAI's curves.


@pytest.mark.parametrize(
    ("experiment", "runs", "published"),
    [
        ("ppg", 3, [0.1608, 0.4746, 0.6445, 0.7561]),
        ("ppo", 3, [0.0991, 0.2544, 0.4057, 0.5777]),
        ("ppg_single", 3, [0.1297, 0.4219, 0.6018, 0.7545]),
        ("ppgkl", 3, [0.1511, 0.4895, 0.6455, 0.7554]),
        ("n_pi=2", 1, [0.1851, 0.4035, 0.5328, 0.6194]),
        ("n_pi=16", 1, [0.2103, 0.5216, 0.6551, 0.7616]),
        ("e_aux=1", 1, [0.0757, 0.2342, 0.4465, 0.6276]),
        ("e_aux=9", 1, [0.2008, 0.4905, 0.6658, 0.7669]),
        ("e_pi=6", 1, [0.0342, 0.1558, 0.2573, 0.3879]),
    ],
)
def test_thinned_curves_give_the_means_of_the_full_logs(experiment, runs, published):
    # Of OpenAI's logs themselves: means over the last 5 % of so many rows of 65,536 env steps.
    for rows, mean, atol in zip(
        (122, 381, 763, 1526), published, (0.007,) * 3 + (3e-4,), strict=True
    ):
        finals = []
        for game in GAMES:
            curve = openai_curves.curve(experiment, game).until(rows * 65_536)
            assert len(curve.seeds) == runs
            finals.append(normalized_return(game, "hard", curve.finals().mean()))
        assert np.isclose(np.mean(finals), mean, rtol=0, atol=atol)


def test_thinning_keeps_early_rows_and_means_of_later_ones(tmp_path):
    full = np.random.default_rng(0).uniform(0, 40, 1526)
    folders = {"ppgsingle-run1": "ppg_single", "e-aux-9": "e_aux=9", "ppo-run0": "ppo"}
    for folder in folders:
        path = tmp_path / "phasic_policy_gradient" / "results" / folder / "progress-coinrun.csv"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(["EpRewMean", *map(str, full), ""]))
    thin_openai_curves.main(str(tmp_path), str(tmp_path / "thin.csv.gz"))
    with gzip.open(tmp_path / "thin.csv.gz", "rt") as file:
        header, *lines = csv.reader(file)
    assert [line[:3] for line in lines] == [
        ["e_aux=9", "coinrun", "0"],
        ["ppg_single", "coinrun", "1"],
        ["ppo", "coinrun", "0"],
    ]
    steps, returns = np.array(header[3:], int), np.array(lines[0][3:], float)
    assert list(steps[:16]) == [65_536 * row for row in range(1, 17)]
    np.testing.assert_allclose(returns[:16], full[:16], atol=0.0051)
    assert steps[-1] == 1526 * 65_536 and len(steps) < 200
    widths = np.diff([0, *steps]) // 65_536
    assert np.isclose(returns @ widths, full.sum(), atol=0.0051 * 1526)  # no row is lost


def test_a_sweep_with_a_value_that_is_procgens_default(tmp_path):
    for i, options in enumerate(({}, {"num_levels": 200}, {"num_levels": 500})):
        env_config = {"distribution_mode": "easy", **options}
        env = "procgen-coinrun-v0"
        write_trial(tmp_path / "a", [5.0 + i], env=env, name=str(i), env_config=env_config)
    trials = read_trials([tmp_path / "a"])
    path = find_setting(trials, "num_levels")
    [panel] = by_environment(trials, path)
    assert [curve.x for curve in panel.curves] == [0, 200, 500]
    [ax] = pictures.sweep([panel], "num_levels").axes
    [line] = (line for line in ax.get_lines() if len(line.get_xdata()) == 3)
    assert list(line.get_ydata()) == [5, 6, 7]


def test_a_sweep_next_to_runs_without_the_setting(tmp_path):
    for i, given in enumerate(({}, {"x": 1}, {"x": 2})):
        write_trial(tmp_path / "a", [5.0 + i], name=str(i), **given)
    [ax] = pictures.sweep(by_environment(read_trials([tmp_path / "a"]), "x"), "x").axes
    assert {tuple(line.get_ydata()) for line in ax.get_lines()} == {(5, 5), (6, 7)}


def test_settings_go_by_the_names_that_users_give_them(tmp_path):
    """RLlib stores some of them in attributes, whose underscore matplotlib makes no legend of."""
    for i in (256, 512):
        setting = {"_train_batch_size_per_learner": i}
        write_trial(tmp_path / "_a", [1.0], algo="PPO", name=str(i), **setting)
    panels = by_environment(read_trials([tmp_path / "_a"]))
    names = ["train_batch_size_per_learner=256", "train_batch_size_per_learner=512"]
    assert labels(panels[0]) == names
    [legend] = pictures.learning_curves(panels).legends
    assert [text.get_text() for text in legend.texts] == [f"{name} (1 seed)" for name in names]


def test_a_function_is_the_same_in_each_process(tmp_path):
    for seed, address in enumerate(("0x7f8d082f1d00", "0x7f12")):
        given = {"_env_to_module_connector": f"<function <lambda> at {address}>", "seed": seed}
        write_trial(tmp_path / "a", [1.0], name=str(seed), **given)
    [panel] = by_environment(read_trials([tmp_path / "a"]))
    assert [len(curve.seeds) for curve in panel.curves] == [2]


def test_reference_ends_where_the_run_does(tmp_path):
    write_trial(tmp_path / "a", ramp(5, 20), steps=range(100_000, 2_100_000, 100_000),
                env="procgen-bigfish-v0")  # fmt: skip
    panels = by_environment(read_trials([tmp_path / "a"]))
    [panel] = add_reference(panels, ["ppg", "ppo", "n_pi=8"])
    assert labels(panel) == ["PPG", "OpenAI PPG", "OpenAI PPO", "OpenAI PPG, n_pi=8"]
    assert [len(curve.seeds) for curve in panel.curves] == [1, 3, 3, 1]
    assert {curve.last_step() for curve in panel.curves} == {2_000_000}


@pytest.mark.parametrize(
    ("env", "env_config", "fits"),
    [
        ("procgen-maze-v0", {}, True),
        ("procgen-maze-v0", {"num_levels": 0, "num_threads": 2, "center_agent": True}, True),
        ("procgen-maze-v0", {"distribution_mode": "easy"}, False),
        ("procgen-maze-v0", {"num_levels": 200}, False),
        ("procgen-maze-v0", {"use_backgrounds": False}, False),
        ("CartPole-v1", {}, False),
    ],
)
def test_reference_is_of_the_same_environment(tmp_path, env, env_config, fits):
    write_trial(tmp_path / "a", [5.0], steps=[1e6], env=env, env_config=env_config)
    [panel] = add_reference(by_environment(read_trials([tmp_path / "a"])), ["ppg"])
    assert len(panel.curves) == (2 if fits else 1)


# Sweeps.


@pytest.fixture
def a_sweep(tmp_path):
    """N_pi 2, 4 and 16, with two seeds; the final returns are 20 and 22, 41 and 43, 10 and 12."""
    for n_pi, final in ((2, 20.0), (4, 41.0), (16, 10.0)):
        for seed in (0, 1):
            returns = [*ramp(5, 19), final + 2 * seed]
            write_trial(tmp_path / "s", returns, name=f"{n_pi}{seed}", seed=seed, n_pi=n_pi)
    return tmp_path / "s"


def test_sweep_table(a_sweep):
    head, *lines = sweep_table(read_trials([a_sweep])).splitlines()
    assert head.split("  ")[0] == "environment"
    assert [line.split() for line in lines] == [
        # The last 5 % of 20,000 steps has two results, the last of the ramp being 5.
        ["CartPole-v1", "n_pi=4", "23.5", "+-", "0.7", "2", "20k"],
        ["CartPole-v1", "n_pi=2", "13.0", "+-", "0.7", "2", "20k"],
        ["CartPole-v1", "n_pi=16", "8.000", "+-", "0.707", "2", "20k"],
    ]


@pytest.fixture
def ended_early(tmp_path):
    """A seed of n_pi=4 and both of n_pi=2 end after 10 of 20 iterations, as under ASHA."""
    for n_pi, seed, n, end in ((2, 0, 10, 50), (2, 1, 10, 70), (4, 0, 20, 100), (4, 1, 10, 90)):
        returns = [0.0] * (n - 2) + [end] * 2
        write_trial(tmp_path / "s", returns, name=f"{n_pi}{seed}", seed=seed, n_pi=n_pi)
    return by_environment(read_trials([tmp_path / "s"]))


def test_runs_that_ended_early_are_marked_and_compared_at_equal_steps(ended_early):
    head, *lines = final_table(ended_early).splitlines()
    assert head.endswith("env steps                 return at equal steps")
    assert [re.split("  +", line)[1:] for line in lines] == [
        ["n_pi=4", "95.0 +- 7.1", "2", "20k, 10k (1 ended early)", "45.0 +- 63.6 (at 10k)"],
        ["n_pi=2", "60.0 +- 14.1", "2", "10k (ended early)", "60.0 +- 14.1 (at 10k)"],
    ]


def crosses(figure):
    [ax] = figure.axes
    lines = [line for line in ax.lines if line.get_marker() == "x"]
    return sorted(xy for line in lines for xy in map(tuple, line.get_xydata()))


def test_they_are_marked_in_pictures_too(ended_early, tmp_path):
    figure = pictures.learning_curves(ended_early)
    assert crosses(figure) == [(10_000, 90 / 2), (10_000, 60)]
    assert figure.legends[0].get_title().get_text().endswith("; x: ended early")
    against = by_environment(read_trials([tmp_path / "s"]), "n_pi")
    assert crosses(pictures.sweep(against, "n_pi")) == [(2, 50), (2, 70), (4, 90)]


def test_a_little_more_or_less_is_no_early_end(tmp_path):
    write_trial(tmp_path / "a", [1.0, 2.0], seed=0, name="0", steps=[1000, 2000])
    write_trial(tmp_path / "a", [1.0, 2.0], seed=1, name="1", steps=[1000, 2090])
    panels = by_environment(read_trials([tmp_path / "a"]))
    assert "early" not in final_table(panels)
    assert not crosses(pictures.learning_curves(panels))


def test_a_setting_is_found_by_the_end_of_its_path(tmp_path):
    for n in (1, 2):
        write_trial(tmp_path / "a", [1.0], name=str(n), n_pi=4, env_config={"num_levels": n})
    trials = read_trials([tmp_path / "a"])
    assert find_setting(trials, "num_levels") == "env_config/num_levels"
    with pytest.raises(ValueError, match="the same n_pi; they differ in env_config/num_levels"):
        find_setting(trials, "n_pi")
    with pytest.raises(ValueError, match="no setting 'n_pie'; did you mean 'n_pi'"):
        find_setting(trials, "n_pie")


# The picture.


def own_lines(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def test_learning_curves_as_drawn(tmp_path):
    for seed, end in ((0, 10.0), (1, 30.0)):
        write_trial(tmp_path / "a", [end / 2, end], name=str(seed), seed=seed)
    write_trial(tmp_path / "a", [1.0, 2.0], algo="PPO", seed=0)
    figure = pictures.learning_curves(by_environment(read_trials([tmp_path / "a"])))
    [ax] = figure.axes
    assert ax.get_xlabel() == "environment steps"
    assert ax.get_ylabel() == "episode return"
    assert ax.get_title() == "CartPole-v1"
    lines = own_lines(ax)
    assert lines["PPG"].get_xydata().tolist() == [[1000, 10], [2000, 20]]
    assert lines["PPO"].get_xydata().tolist() == [[1000, 1], [2000, 2]]
    [band] = ax.collections  # PPO has one seed, and no band
    heights = band.get_paths()[0].vertices[:, 1]
    spread = 200**0.5  # of 10 and 30
    assert (heights.min(), heights.max()) == pytest.approx((10 - spread / 2, 20 + spread))
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["PPG (2 seeds)", "PPO (1 seed)"]
    assert "± 1 standard deviation" in legend.get_title().get_text()
    assert ax.xaxis.get_major_formatter()(2_000_000) == "2M"


def test_seeds_without_common_steps_are_drawn_one_by_one(tmp_path):
    write_trial(tmp_path / "a", [1.0, 2.0], seed=0, name="0", steps=[1000, 2000])
    write_trial(tmp_path / "a", [3.0, 4.0], seed=1, name="1", steps=[3000, 4000])
    figure = pictures.learning_curves(by_environment(read_trials([tmp_path / "a"])))
    [ax] = figure.axes
    lines = [line.get_xydata().tolist() for line in ax.lines if line.get_label() == "PPG"]
    assert lines == [[[1000, 1], [2000, 2]], [[3000, 3], [4000, 4]]]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["PPG (2 seeds)"]
    assert "one by one" in legend.get_title().get_text()


def long_settings(i):
    return {f"a_setting_with_quite_a_long_name_{n}": n * i for n in range(6)}


def test_many_settings_do_not_push_the_legends_lines_out_of_the_picture(tmp_path):
    for i in (1, 2):
        write_trial(tmp_path / "a", [1.0, 2.0], name=str(i), **long_settings(i))
    figure = pictures.learning_curves(by_environment(read_trials([tmp_path / "a"])))
    FigureCanvasAgg(figure).draw()
    [legend] = figure.legends
    for shown in (*legend.get_lines(), *legend.get_texts()):
        box = shown.get_window_extent()
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
    assert figure.axes[0].get_window_extent().height > figure.bbox.height / 3


def test_experiments_that_differ_in_many_settings_go_by_their_names(tmp_path):
    for i, run_name in enumerate(("large", "small")):
        for seed in (0, 1):
            given = {"seed": seed, **long_settings(i)}
            write_trial(tmp_path / run_name, [1.0], name=str(seed), **given)
    [panel] = by_environment(read_trials([tmp_path]))
    assert labels(panel) == ["large", "small"]
    assert [len(curve.seeds) for curve in panel.curves] == [2, 2]


def test_panels_of_games_and_their_mean(tmp_path):
    for game in ("coinrun", "maze", "heist"):
        write_trial(tmp_path / "a", ramp(10), env=f"procgen-{game}-v0")
    panels = by_environment(read_trials([tmp_path / "a"]))
    figure = pictures.learning_curves([*panels, *mean_over_games(panels)])
    titles = ["coinrun (hard)", "heist (hard)", "maze (hard)", "mean over 3 games"]
    assert [ax.get_title() for ax in figure.axes] == titles
    assert figure.axes[-1].get_ylabel() == "normalised return"
    assert [ax.get_xlabel() for ax in figure.axes] == ["", ""] + ["environment steps"] * 2


def test_algorithms_keep_their_colours_and_openais_curves_are_dashed(tmp_path):
    steps = [1e6, 2e6]
    write_trial(tmp_path / "a", [1.0, 2.0], steps=steps, env="procgen-maze-v0")
    write_trial(tmp_path / "b", [1.0, 2.0], steps=steps, env="procgen-maze-v0", algo="PPO")

    def colours(*runs):
        panels = add_reference(by_environment(read_trials(runs)), ["ppg", "ppo"])
        lines = own_lines(pictures.learning_curves(panels).axes[0])
        dashed = {label: line.is_dashed() for label, line in lines.items()}
        assert dashed == {label: label.startswith("OpenAI") for label in lines}
        return {label: to_hex(line.get_color()) for label, line in lines.items()}

    both = colours(tmp_path / "a", tmp_path / "b")
    assert len(set(both.values())) == len(both) == 4
    for alone in (colours(tmp_path / "a"), colours(tmp_path / "b")):
        assert alone.items() <= both.items()


@pytest.mark.parametrize("size", [7, 12])
def test_a_long_sweep_has_a_colour_each(tmp_path, size):
    for n_pi in range(size):
        write_trial(tmp_path / "a", [1.0, 2.0], name=str(n_pi), n_pi=n_pi)
    panels = by_environment(read_trials([tmp_path / "a"]))
    lines = own_lines(pictures.learning_curves(panels).axes[0])
    assert list(lines) == [f"n_pi={n_pi}" for n_pi in range(size)]
    assert len({to_hex(line.get_color()) for line in lines.values()}) == size


def test_a_sweep_as_drawn(a_sweep):
    write_trial(a_sweep, [7.0], algo="PPO")
    figure = pictures.sweep(by_environment(read_trials([a_sweep]), "n_pi"), "n_pi")
    [ax] = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("n_pi", "final episode return")
    lines = own_lines(ax)
    assert list(lines) == ["PPG", "PPO"]
    assert lines["PPG"].get_xydata().tolist() == [[2, 13], [4, 23.5], [16, 8]]
    assert list(lines["PPO"].get_ydata()) == [7, 7]  # without the setting: level
    seeds = [
        xy for line in ax.lines if line.get_label().startswith("_") for xy in line.get_xydata()
    ]
    assert sorted(map(tuple, seeds)) == [
        (2, 12.5), (2, 13.5), (4, 23), (4, 24), (16, 7.5), (16, 8.5)
    ]  # fmt: skip
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "4", "16"]


@pytest.mark.parametrize(
    ("values", "scale", "places"),
    [
        ([1, 2, 64], "log", [1, 2, 64]),
        ([1, 3, 5], "linear", [1, 3, 5]),
        ([0, 2, 4], "linear", [0, 2, 4]),
        ([3e-5, 1e-3], "log", [3e-5, 1e-3]),
        (["dual", "shared"], "linear", [0, 1]),
        ([False, True], "linear", [0, 1]),
        ([0.5, None], "linear", [0, 1]),
    ],
)
def test_the_scale_of_a_setting(tmp_path, values, scale, places):
    for i, value in enumerate(values):
        write_trial(tmp_path / "a", [float(i)], name=str(i), x=value)
    [ax] = pictures.sweep(by_environment(read_trials([tmp_path / "a"]), "x"), "x").axes
    assert ax.get_xscale() == scale
    assert ax.lines[0].get_xydata().tolist() == [[x, i] for i, x in enumerate(places)]
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    assert ticks == [f"{v:g}" if type(v) in (int, float) else str(v) for v in values]


def test_two_swept_settings_are_a_line_for_each_value_of_the_other(tmp_path):
    for n_pi in (2, 4):
        for e_aux in (3, 6):
            name = f"{n_pi}{e_aux}"
            write_trial(tmp_path / "a", [n_pi * e_aux], name=name, n_pi=n_pi, e_aux=e_aux)
    [ax] = pictures.sweep(by_environment(read_trials([tmp_path / "a"]), "n_pi"), "n_pi").axes
    drawn = {label: line.get_xydata().tolist() for label, line in own_lines(ax).items()}
    assert drawn == {"e_aux=3": [[2, 6], [4, 12]], "e_aux=6": [[2, 12], [4, 24]]}


# The command.


@pytest.fixture
def games(tmp_path):
    """PPG and PPO on two games, two seeds, 2M steps."""
    for algo, slope in (("PPG", 1.0), ("PPO", 0.5)):
        for game in ("bigfish", "starpilot"):
            for seed in (0, 1):
                write_trial(
                    tmp_path / algo.lower(), ramp(slope * (3 + seed), 40), algo=algo, seed=seed,
                    env=f"procgen-{game}-v0", name=str(seed), n_pi=2 + 2 * seed,
                    steps=range(50_000, 2_050_000, 50_000),
                )  # fmt: skip
    return tmp_path


def test_the_command_draws_and_prints_the_final_returns(games):
    for seed in (0, 1):
        write_trial(games / "one", [float(seed), 3.0 + 2 * seed], name=str(seed), seed=seed)
    ended = run("plot", games / "one", "--out", games / "x.png")
    assert (ended.returncode, ended.stderr) == (0, "")
    *_, row, where = ended.stdout.splitlines()
    assert row.split() == ["CartPole-v1", "PPG", "4.000", "+-", "1.414", "2", "2k"]
    assert where == f"plot: {games / 'x.png'}"
    picture = (games / "x.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    assert 800 < width < 2000
    assert 500 < height < 1500


def drawn_texts(file):
    """Returns the texts of an SVG, which keeps each in a comment."""
    return re.findall("<!-- (.*) -->", file.read_text())


@pytest.mark.parametrize(
    ("options", "there", "not_there"),
    [
        ("", ["PPG (n_pi=2) (1 seed)", "mean over 2 games", "environment steps"], ["OpenAI"]),
        ("--reference openai", ["OpenAI PPG (3 seeds)", "OpenAI PPO (3 seeds)"], ["n_pi=8"]),
        (
            "--reference openai --reference-experiments n_pi=8,ppgkl",
            ["OpenAI PPG, n_pi=8 (1 seed)", "OpenAI PPG, KL penalty (3 seeds)"],
            ["OpenAI PPO"],
        ),
        ("--against n_pi", ["PPG (1 seed)", "n_pi", "final episode return"], ["OpenAI"]),
        ("--against n_pi --reference openai", ["OpenAI's sweep (1 seed)", "16"], ["OpenAI PPO"]),
        (
            "--metric training_iteration",
            ["training_iteration"],
            ["episode return", "mean over 2 games"],
        ),
    ],
)
def test_options_of_the_command(games, capsys, options, there, not_there):
    out = games / "x.svg"
    words = ["plot", f"{games}/ppg", f"{games}/ppo", "--out", str(out), *shlex.split(options)]
    assert main(words) == 0
    texts = drawn_texts(out)
    assert set(there) <= set(texts)
    assert not [text for text in texts for word in not_there if word in text]
    assert capsys.readouterr().out.endswith(f"plot: {out}\n")


def test_a_reference_that_does_not_fit_is_said_so(tmp_path, capsys):
    write_trial(tmp_path / "a", [1.0])
    words = ["plot", f"{tmp_path}/a", "--out", f"{tmp_path}/x.svg", "--reference", "openai"]
    assert main(words) == 0
    assert "none of OpenAI's curves match" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("", "Missing argument 'RUN...'"),
        ("{}/nowhere", "there is no folder"),
        ("{}/ppg --out x.gif", "x.gif must end in .png, .pdf, .svg"),
        ("{}/ppg --out {}/nowhere/x.png", "there is no folder"),
        ("{}/ppg --against n_pj", "did you mean 'n_pi'"),
        ("{}/ppg --against env", "all have the same env; they differ in n_pi"),
        ("{}/ppg --metric env_runners/episode_return", "did you mean 'env_runners/episode_ret"),
        ("{}/ppg --reference opnai", "'opnai' is not 'openai'"),
        ("{}/ppg --reference openai --reference-experiments pgg", "did you mean 'ppg'"),
        ("{}/ppg --reference-experiments ppg", "needs --reference openai"),
        ("{}/ppg --referense openai", "did you mean '--reference'"),
    ],
)
def test_bad_input(games, capsys, monkeypatch, options, complaint):
    monkeypatch.chdir(games)
    assert main(["plot", *shlex.split(options.replace("{}", str(games)))]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("rllib: error: ")
    assert complaint in err
    assert not list(games.glob("*.*"))
