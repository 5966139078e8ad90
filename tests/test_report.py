"""`rllib report`: what its page shows, and what it leaves out."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from rllib_ppg.plots.results import read_results
from rllib_ppg.reports import curves
from rllib_ppg.reports.time_split import PARTS, seconds
from tests.support.trial_folders import ramp, write_trial

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def a_result(i, module="default_policy", n_pi=2, e_aux=3):
    """Results of PPG's iteration i, with a phase every n_pi iterations; values are known."""
    of_module = {"approx_kl": 0.01 * i, "entropy": 1 / i, "clip_fraction": 0.1, "vf_loss": 1 / i}
    of_module["vf_explained_var"] = -40.0 if i == 2 else 0.5
    if i % n_pi == 0:
        epochs = {f"epoch_{e}": {"clone_kl": i + e / 10} for e in range(1, e_aux + 1)}
        of_module["aux"] = {"clone_kl": i + e_aux / 10, **epochs}
    return {"learners": {module: of_module}, "time_this_iter_s": 2.0, "time_total_s": 2.0 * i}


def write_ppg(run, n=8, **kwargs):
    return write_trial(run, ramp(10, n), results=[a_result(i + 1) for i in range(n)], **kwargs)


def read(folder):
    [trial] = read_results([folder], lambda path: True)
    return trial


@pytest.fixture
def report(rllib, tmp_path):
    """Makes a page of runs and returns its text without plotly's."""

    def report(*runs):
        from plotly.offline import get_plotlyjs

        file = tmp_path / "report.html"
        ended = rllib("report", *runs, "--out", file)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout == f"report: {file}\n"
        page = file.read_text()
        assert page.count(get_plotlyjs()) == 1
        return page.replace(get_plotlyjs(), "")

    return report


def plots(page):
    """The traces of each plot by its title."""
    titles = re.findall("<figcaption><b>(.*?)</b>", page)
    figures = re.findall('<script type="application/json">(.*?)</script>', page)
    return dict(zip(titles, (json.loads(figure)["data"] for figure in figures), strict=True))


def rows(page, heading):
    """The texts of a table's cells, without the head."""
    section = page.split(f"<h2>{heading}</h2>")[1].split("</section>")[0]
    body = section.split("<tbody>")[1]
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall("<td.*?</td>", row, re.S)]
        for row in re.findall("<tr.*?</tr>", body, re.S)
    ]


def test_two_runs_side_by_side(report, tmp_path):
    write_ppg(tmp_path / "long", n_pi=4, gamma=0.999, e_pi=2, seed=0)
    write_ppg(tmp_path / "short", n_pi=2, gamma=0.999, e_pi=2, seed=1)
    page = report(tmp_path / "long", tmp_path / "short")
    drawn = plots(page)
    of_phases = "KL divergence from the policy before the phase"
    for title in ("Mean return", "KL divergence", "Entropy", "Clip fraction", of_phases):
        assert {trace["meta"] for trace in drawn[title]} == {"long", "short"}, title
    bars = drawn["Seconds per 1,000 env steps"]
    assert [bar["x"] for bar in bars] == [["long", "short"]]
    # gamma is the default.
    env, same = "CartPole-v1", ["e_pi", "2", "2"]
    assert rows(page, "Settings") == [
        ["n_pi", "4", "2"],
        ["seed", "0", "1"],
        same,
        ["env", env, env],
    ]
    assert page.count('class="differs"') == 2


def test_seeds_share_a_name_and_trials_of_a_sweep_do_not(report, tmp_path):
    for i, (n_pi, seed) in enumerate([(2, 0), (2, 1), (4, 0)]):
        write_ppg(tmp_path / "sweep", name=str(i), n_pi=n_pi, seed=seed, started=i)
    page = report(tmp_path / "sweep")
    assert re.findall('data-name="(.*?)"', page) == ["n_pi=2", "n_pi=4"]
    names = [row[0] for row in rows(page, "Runs")]
    assert names == ["n_pi=2, seed 0", "n_pi=2, seed 1", "n_pi=4"]
    assert [row[4:] for row in rows(page, "All runs in the same folder")] == [
        ["0", "8k", "10.0"],
        ["0, 1", "8k", "10.0 ± 0.0"],
    ]


def test_a_setting_or_a_name_is_no_html_and_no_secret_is_shown(report, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "of-the-environment")
    env_config = {
        "text": "<script>alert(1)</script>",
        "password": "a-password",
        "url": "https://me:of-the-environment@host",
        "pad_token": 3,
    }
    folder = write_ppg(tmp_path / "<script>alert(2)<", env_config=env_config)
    write_ppg(tmp_path / "other", env_config={"password": "another"})
    (folder / "command.txt").write_text("SOME_API_KEY=abc rllib train '<script>alert(3)'")
    page = report(folder, tmp_path / "other")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    for secret in ("a-password", "another", "of-the-environment", "KEY=abc"):
        assert secret not in page
    shown = {row[0]: row[1:] for row in rows(page, "Settings")}
    assert shown["env_config/password"] == ["***", "***"]
    assert shown["env_config/pad_token"] == ["3", ""]


def test_the_page_needs_no_network(report, tmp_path):
    page = report(write_ppg(tmp_path / "run"))
    assert "default-src 'none'" in page
    assert re.findall(r"(?:src|href)=[\"']?(?!data:)\S+|@import|url\(|https?://", page) == []


def test_other_algorithms_have_what_they_report(report, tmp_path):
    results = [{"learners": {"default_policy": {"mean_kl_loss": 0.1 * i}}} for i in range(3)]
    write_trial(tmp_path / "ppo", ramp(1, 3), algo="PPO", results=results)
    write_ppg(tmp_path / "ppg")
    page = report(tmp_path / "ppo")
    assert plots(page).keys() == {"Mean return", "KL divergence"}
    assert "Auxiliary phases" not in page
    page = report(tmp_path)
    assert {trace["meta"] for trace in plots(page)["KL divergence"]} == {"ppg", "ppo"}


def test_each_module_has_plots(report, tmp_path):
    results = []
    for i in range(1, 5):
        both = [a_result(i, module)["learners"] for module in ("left", "right")]
        returns = {"module_episode_returns_mean": {"left": i, "right": 2.0 * i}}
        results.append({"learners": both[0] | both[1], "env_runners": returns})
    page = report(write_trial(tmp_path / "two", ramp(1, 4), results=results))
    for module in ("left", "right"):
        of_module = page.split(f"<h2>Policy phase of {module}</h2>")[1].split("<h2>")[0]
        assert {"Mean return", "Entropy"} <= plots(of_module).keys()
        assert f"Auxiliary phases of {module}" in page


def test_a_run_whose_first_episode_has_not_ended(report, tmp_path):
    folder = write_trial(tmp_path / "run", [None], results=[a_result(1)])
    page = report(folder)
    [[*_, final, state]] = rows(page, "Runs")
    assert (final, state) == ("no episode has ended", "not ended")
    assert "Entropy" in plots(page)


def test_past_runs_are_those_of_tune_next_to_the_run(report, tmp_path):
    run = write_ppg(tmp_path / "run", seed=0, started=10)
    for name in ("older", "not_of_tune"):
        write_trial(tmp_path / name, [3.0], seed=5)
    (tmp_path / "older" / "tuner.pkl").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tuner.pkl").touch()
    [newest, older] = rows(report(run), "All runs in the same folder")
    assert newest[0] == "run"
    assert [older[0], *older[2:]] == ["older", "CartPole-v1", "PPG", "5", "1k", "3.000"]


def test_files_in_the_folder(report, tmp_path, monkeypatch):
    folder = write_ppg(tmp_path / "run")
    (folder / "config.yaml").write_text("# 2026-11-24T10:00:00, rllib-ppg 9.8.7, ray 2.60.0\n")
    (folder / "videos").mkdir()
    (folder / "videos" / "iteration_000004.mp4").write_bytes(b"film")
    evaluation = {
        "checkpoint": f"{folder}/checkpoint_000001",
        "env_steps_trained": 4000,
        "results": {
            "held_out_levels": {"episodes": 9, "return_mean": 7.5, "return_std_error": 0.25}
        },
    }
    (folder.parent / "eval.json").write_text(json.dumps(evaluation))
    (folder / "broken.json").write_text("{")
    page = report(folder)
    assert "rllib-ppg 9.8.7, ray 2.60.0" in page
    assert 'src="data:video/mp4;base64,ZmlsbQ=="' in page
    assert rows(page, "Evaluations") == [
        ["PPG", "eval.json", "4k", "held out levels", "9", "7.5 ± 0.25"]
    ]
    monkeypatch.setattr("rllib_ppg.reports.run_files.MAX_VIDEO_BYTES", 3)
    page = report(folder)
    assert "too large" in page
    assert "iteration_000004.mp4" in page


def test_what_cannot_be_reported(rllib, tmp_path, monkeypatch):
    run = write_ppg(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    page = tmp_path / "page.html"
    page.write_text("an earlier page")
    for words, error in (
        ([tmp_path / "empty", "--out", page], "there are no results in"),
        ([tmp_path / "rum", "--out", page], "did you mean 'run'?"),
        ([run, "--out", tmp_path / "page.pdf"], "must end in .html"),
        ([run, "--out", tmp_path / "nowhere" / "page.html"], "there is no folder"),
    ):
        ended = rllib("report", *words)
        assert ended.returncode == 2, words
        assert error in ended.stderr
        assert ended.stderr.count("\n") == 1
    monkeypatch.delitem(sys.modules, "rllib_ppg.reports.page", raising=False)
    for module in [name for name in sys.modules if name.startswith("plotly")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "rllib_ppg.reports.figures", raising=False)
    monkeypatch.setitem(sys.modules, "plotly", None)
    ended = rllib("report", run, "--out", page)
    assert ended.returncode == 2
    assert "pip install 'rllib-ppg[report]'" in ended.stderr
    assert page.read_text() == "an earlier page"


# What is drawn.


def test_auxiliary_epochs_in_a_row(tmp_path):
    trial = read(write_ppg(tmp_path / "run", n=4))
    line = curves.aux_epochs(trial, "default_policy", "clone_kl")
    np.testing.assert_allclose(line.env_steps, [1 / 3, 2 / 3, 1, np.nan, 4 / 3, 5 / 3, 2, np.nan])
    np.testing.assert_allclose(line.returns, [2.1, 2.2, 2.3, np.nan, 4.1, 4.2, 4.3, np.nan])


def test_results_without_single_epochs(tmp_path):
    results = [{"learners": {"default_policy": {"aux": {"clone_kl": 0.5 + i}}}} for i in range(2)]
    trial = read(write_trial(tmp_path / "run", ramp(1, 2), results=results))
    line = curves.aux_epochs(trial, "default_policy", "clone_kl")
    np.testing.assert_allclose(line.returns, [0.5, np.nan, 1.5, np.nan])


def test_long_curves_are_thinned_to_means(tmp_path):
    trial = read(write_ppg(tmp_path / "run", n=1700))
    line = curves.curve(trial, "learners/default_policy/approx_kl")
    assert len(line.env_steps) == 567  # three at a time
    assert line.env_steps[:2].tolist() == [2000, 5000]
    np.testing.assert_allclose(line.returns[[0, -1]], [0.02, (16.99 + 17.0) / 2])
    assert curves.mark_every(trial) == 17
    marked = curves.marks(trial, line)
    assert marked.env_steps.tolist() == [34_000.0 * i for i in range(1, 50)]  # the last is beyond
    np.testing.assert_allclose(marked.returns[0], 0.34)
    assert len(curves.aux_epochs(trial, "default_policy", "clone_kl").returns) <= curves.MAX_POINTS


def test_an_evaluation_counts_once_though_results_repeat_it(tmp_path):
    results = [
        {"evaluation": {"env_runners": {"episode_return_mean": r, "episode_duration_sec_mean": s}}}
        for r, s in ((1.0, 0.1), (1.0, 0.1), (1.0, 0.2), (4.0, 0.3))
    ]
    trial = read(write_trial(tmp_path / "run", ramp(1, 4), results=results))
    line = curves.curve(trial, "evaluation/env_runners/episode_return_mean")
    assert line.env_steps.tolist() == [1000, 3000, 4000]
    assert line.returns.tolist() == [1, 1, 4]


def test_the_seconds_behind_moving_averages(tmp_path):
    """Of two modules, whose phases are timed one after the other."""
    spent = {
        "env_runner_sampling_timer": [[1.0], [3.0], [2.0], [2.5]],
        "policy_phase": [[4.0, 4.0], [5.0, 5.0], [2.0, 2.0], [1.0, 1.0]],
        "auxiliary_phase": [[], [7.0, 7.0], [], [9.0, 9.0]],
    }
    averages, results = {}, []
    for i in range(4):
        for name, times in spent.items():
            for x in times[i]:
                averages[name] = 0.99 * averages[name] + 0.01 * x if name in averages else x
        iteration = 0.5 + sum(sum(times[i]) for times in spent.values())
        modules = {"left": {"entropy": 1.0}, "right": {"entropy": 1.0}}
        results.append(
            {"timers": dict(averages), "time_this_iter_s": iteration, "learners": modules}
        )
    trial = read(write_trial(tmp_path / "run", ramp(1, 4), results=results))
    split = dict(zip(PARTS, seconds(trial), strict=True))
    np.testing.assert_allclose(split["sampling"], [1, 3, 2, 2.5])
    np.testing.assert_allclose(split["policy phase"], [8, 10, 4, 2], rtol=0.02)  # 0.99 for one
    np.testing.assert_allclose(split["auxiliary phase"], [0, 14, 0, 18], rtol=0.02)
    np.testing.assert_allclose(split["other"], 0.5, atol=0.2)
    assert not split["evaluation"].any()


# In a browser.


def browse(file, profile):
    """Opens a page without a network; returns what it has become, and what the console says."""
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        # No name is found, and nobody answers.
        "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
        f"--user-data-dir={profile}", "--enable-logging=stderr",
        "--virtual-time-budget=20000", "--dump-dom", f"file://{file}",
    ]  # fmt: skip
    env = os.environ | {"HOME": str(profile)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, env=env)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, [line for line in ended.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt-get install chromium")
def test_a_browser_draws_the_page_without_a_network(report, tmp_path):
    for name in ("a", "b"):
        write_ppg(tmp_path / "runs" / name, note="<script>alert(1)</script>")
    drawn = plots(report(tmp_path / "runs"))
    page, errors = browse(tmp_path / "report.html", tmp_path / "browser")
    assert errors == []
    assert page.count('class="plot js-plotly-plot"') == len(drawn)
    of_a = sum(trace["meta"] == "a" for title in drawn for trace in drawn[title] if "meta" in trace)
    lines = page.count('class="trace scatter ')
    assert lines == 2 * of_a > 10
    assert page.count('class="trace bars"') > 0

    # A click on the legend hides a run. An error is noticed, and so is a request.
    clicks = "document.querySelector('nav button').click(); fetch('http://example.org'); nothing()"
    with (tmp_path / "report.html").open("a") as file:
        file.write(f"<script>{clicks}</script>")
    page, errors = browse(tmp_path / "report.html", tmp_path / "browser")
    assert page.count('class="trace scatter ') == of_a
    assert any("nothing is not defined" in error for error in errors)
    assert any("Content Security Policy" in error for error in errors)
