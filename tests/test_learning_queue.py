"""Learning results: runs that were stopped go on, and tables say what the rows say."""

import csv
import math
import re
from collections import deque
from dataclasses import replace
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.utils import RunningMeanStd

from benchmarks import learning, learning_report, phases, phases_report, suites
from benchmarks.learning import FIELDS, Run
from benchmarks.suites import rllib_ppo
from benchmarks.suites.suite import Suite
from tests.support.algorithms import learner_metrics, small

TINY = Suite(
    envs=("CartPole-v1",),
    env_steps=64 * 6,
    seeds=(0, 1),
    arms={"ppg": lambda env: small(env, runners=0)},
)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setattr(suites, "SUITES", {"tiny": TINY})
    monkeypatch.setattr(learning, "RESULTS", tmp_path / "results")
    return tmp_path


def rows(path):
    with path.open() as f:
        return list(csv.DictReader(line for line in f if not line.startswith("#")))


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(cluster, tiny):
    stopped, whole = (Run("tiny", "CartPole-v1", "ppg", 0) for _ in range(2))
    times = 0
    while not stopped.csv.exists():
        learning.train(stopped, tiny / "state", deadline=0)  # one iteration each time
        for folder in (tiny / "state").glob("tiny/*"):
            for left_by_a_kill in ("draft", "000000000000"):
                (folder / left_by_a_kill).mkdir()
        times += 1
        assert times < 20
    assert times > 2
    parts = rows(stopped.csv)
    stopped.csv.unlink()
    learning.train(whole, tiny / "other", deadline=math.inf)
    expected = rows(whole.csv)
    assert [r["env_steps"] for r in parts] == [r["env_steps"] for r in expected]
    assert [r["episode_return"] for r in parts] == [r["episode_return"] for r in expected]
    assert whole.csv.read_text().startswith("# rllib-ppg ")
    assert not list((tiny / "state").glob("tiny/*"))


@pytest.mark.parametrize("trains", ["policy phases", "auxiliary phases"])
def test_a_policy_is_played_around_each_auxiliary_phase(cluster, monkeypatch, trains):
    lr, aux_lr = (0.01, 0.0) if trains == "policy phases" else (0.0, 0.1)
    arms = {"ppg": lambda env: small(env, runners=0).training(lr=lr, aux_lr=aux_lr)}
    monkeypatch.setattr(phases, "SUITES", {"tiny": replace(TINY, arms=arms)})
    found = played("ppg")
    in_phases = [row["before"] == row["after"] for row in found]
    between = [a["after"] == b["before"] for a, b in pairwise(found)]
    assert in_phases == [trains == "policy phases"] * 3
    assert between == [trains == "auxiliary phases"] * 2


def test_playing_leaves_the_training_as_it_was(cluster, monkeypatch):
    arms = {
        "ppg": lambda env: small(env, runners=0),
        "no_aux": lambda env: small(env, runners=0).training(n_pi=0),
    }
    monkeypatch.setattr(phases, "SUITES", {"tiny": replace(TINY, arms=arms)})
    for arm, make in arms.items():
        algo = make("CartPole-v1").debugging(seed=0).build_algo()
        plain = [learner_metrics(algo.train())["approx_kl"] for _ in range(6)]
        algo.stop()
        found = played(arm)
        expected = np.reshape(plain, (3, 2)).mean(1)
        assert [float(row["approx_kl"]) for row in found] == pytest.approx(expected, rel=1e-4)
        for key in ("before", "after", "aux/clone_kl"):
            assert all((row[key] == "") == (arm == "no_aux") for row in found)


def played(arm):
    """The arm's rows, by field."""
    rows = phases.train(Run("tiny", "CartPole-v1", arm, 0))
    return [dict(zip(phases.FIELDS, row, strict=True)) for row in rows]


def test_what_auxiliary_phases_have_changed_is_summed_up(tmp_path, monkeypatch):
    monkeypatch.setattr(phases_report, "RESULTS", tmp_path)
    (tmp_path / "phases").mkdir()
    for arm, clone_kl, returns in (
        ("ppg", 0.1, ((10, 12), (30, 25), (20, 21), (23, 22))),
        ("no_aux", "", (("", ""),) * 4),
    ):
        with (tmp_path / "phases" / f"A_{arm}_0.csv").open("w", newline="") as f:
            f.write("# versions\n")
            rest = [[clone_kl, kl, 0, 0, -kl, 0] for kl in (9, 9, 0.25, 0.75)]
            rows = [["A", arm, 0, i, *returns[i], *rest[i]] for i in range(4)]
            csv.writer(f).writerows([phases.FIELDS, *rows])
    runs = phases_report.read()
    no_aux, ppg = (
        line.strip("| ").split(" | ") for line in phases_report.table(runs).split("\n")[2:]
    )
    halves = ["9.0000 / 0.5000", "-9.00 / -0.50"]
    # The best is after the second phase: 25 -> 20 -> 21 -> 23 -> 22.
    sums = ["-3 ± 6", "+0 ± 2, -3"]
    assert ppg == ["A, ppg, seed 0", "25", "22", *sums, "0.1000 / 0.1000", *halves]
    assert no_aux == ["A, no_aux, seed 0", "-", "-", "-", "-", "-", *halves]
    phases_report.draw(runs)
    assert (tmp_path / "phases.png").stat().st_size > 1000


def test_the_queue_trains_seeds_first_and_what_is_complete_never_again(tiny, monkeypatch):
    suite = Suite(envs=("A/x", "B"), env_steps=1, seeds=(0, 1), arms={"ppg": None, "ppo": None})
    monkeypatch.setattr(suites, "SUITES", {"tiny": suite})
    queue = [
        ["one", "tiny", env, arm, seed]
        for seed in "01"
        for env in ("A/x", "B")
        for arm in ("ppg", "ppo")
    ]
    assert run_queue(monkeypatch, returncode=0) == queue
    done = learning.runs_of("tiny")[1]
    done.csv.parent.mkdir(parents=True)
    done.csv.touch()
    assert run_queue(monkeypatch, returncode=0) == [queue[0], *queue[2:]]
    assert run_queue(monkeypatch, "--only", "A-x*", "*_1", returncode=0) == [queue[0], *queue[4:]]
    with pytest.raises(SystemExit):
        learning.main(["run", "tiny", "--only", "*_7"])


def test_a_paused_queue_waits_and_goes_on(tiny, monkeypatch):
    """Runs end while it is paused, and are begun again where they were."""
    state, begun = tiny / "state", []
    learning.main(["pause", "--state", str(state)])

    class Process:
        returncode = 0

        def __init__(self, command, env):
            assert not learning.is_paused(state)
            begun.append(command[-5])
            if len(begun) == 1:
                learning.main(["pause", "--state", str(state)])
            else:
                run = Run("tiny", "CartPole-v1", "ppg", int(command[-5]))
                run.csv.parent.mkdir(parents=True, exist_ok=True)
                run.csv.touch()

        def poll(self):
            return 0

    def wait(seconds):
        learning.main(["resume", "--state", str(state)])

    monkeypatch.setattr(learning.subprocess, "Popen", Process)
    monkeypatch.setattr(learning.time, "sleep", wait)
    assert learning.run_queue(learning.runs_of("tiny"), 1, state, math.inf) == 0
    assert begun == ["0", "0", "1"]


def test_a_run_that_failed_is_named_and_the_others_are_trained(tiny, monkeypatch, capsys):
    assert len(run_queue(monkeypatch, returncode=2)) == 2
    assert "CartPole-v1_ppg_1 failed with exit code 2" in capsys.readouterr().out


def run_queue(monkeypatch, *options, returncode):
    """What the queue has started, if all of it ends so."""
    started = []

    class Process:
        def __init__(self, command, env):
            self.returncode = returncode
            started.append(command[-9:-4])

        def poll(self):
            return self.returncode

    monkeypatch.setattr(learning.subprocess, "Popen", Process)
    monkeypatch.setattr(learning.time, "sleep", lambda seconds: None)
    with pytest.raises(SystemExit) as ended:
        learning.main(["run", "tiny", *options])
    assert bool(ended.value.code) == bool(returncode)
    return started


def write(folder, env, arm, seed, returns, every=10):
    """A run's rows: a point every so many env steps."""
    with (folder / f"{env}_{arm}_{seed}.csv").open("w", newline="") as f:
        f.write("# versions\n")
        points = [[env, arm, seed, every * (i + 1), r, 1.0] for i, r in enumerate(returns)]
        csv.writer(f).writerows([FIELDS, *points])


def test_the_table_is_of_the_last_tenth_and_its_scores_are_by_the_baseline(tmp_path, monkeypatch):
    suite = Suite(envs=("A", "B"), env_steps=100, seeds=(0, 1, 2), arms={"ppg": None, "ppo": None})
    monkeypatch.setattr(learning_report, "SUITES", {"s": suite})
    monkeypatch.setattr(learning_report, "RESULTS", tmp_path)
    (tmp_path / "s").mkdir()
    finals = {("A", "ppg"): (200, 400, 1800), ("A", "ppo"): (100, 200, 300)}
    finals |= {("B", "ppg"): (2, 4, 6), ("B", "ppo"): (1, 2, 3)}
    for (env, arm), by_seed in finals.items():
        for seed, last in enumerate(by_seed):
            write(tmp_path / "s", env, arm, seed, ["", *[-999.0] * 8, last])
    curves = learning_report.read("s")
    ppg, ppo = learning_report.table("s", curves).splitlines()[2:]
    # Scores of ppg 1, 2, 9, 1, 2, 3 and of ppo .5, 1, 1.5 twice: the mean of the middle four.
    assert ppg.startswith("| ppg | 800 ± 872 (3) | 4.00 ± 2.00 (3) | 2.00 [")
    assert ppo.startswith("| ppo | 200 ± 100 (3) | 2.00 ± 1.00 (3) | 1.00 [")
    two = {key: {seed: seeds[seed] for seed in (0, 1)} for key, seeds in curves.items()}
    assert "[" not in learning_report.table("s", two).splitlines()[2]  # too few for an interval
    learning_report.draw("s", curves)
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_the_table_says_how_soon_an_arm_is_where_the_baseline_ends(tmp_path, monkeypatch):
    arms = {"ppg": None, "ppo": None, "slow": None, "to come": None}
    suite = Suite(envs=("A", "B"), env_steps=10**6, seeds=(0, 1), arms=arms)
    monkeypatch.setattr(learning_report, "SUITES", {"s": suite})
    monkeypatch.setattr(learning_report, "RESULTS", tmp_path)
    (tmp_path / "s").mkdir()
    for seed in (0, 1):  # means over them, of A: ppg is at .9 after .45M, where ppo ends
        up = [(1 + (-1) ** seed / 2) * 0.2 * (i + 1) for i in range(10)]
        write(tmp_path / "s", "A", "ppg", seed, up, every=100_000)
        write(tmp_path / "s", "A", "ppo", seed, [0.0] * 9 + [0.9], every=100_000)
        write(tmp_path / "s", "A", "slow", seed, [0.0] * 10, every=100_000)
        write(tmp_path / "s", "B", "ppg", seed, up, every=100_000)
    lines = learning_report.table("s", learning_report.read("s")).splitlines()[2:]
    ppg, ppo, slow = (line.strip("| ").split(" | ")[-1] for line in lines)
    assert (ppg, ppo, slow) == ("0.45 / ?", "1.00 / ?", "- / ?")


def test_openais_runs_stand_beside_ours_where_there_is_no_baseline(tmp_path, monkeypatch):
    suite = Suite(
        envs=("procgen-bigfish-v0", "procgen-starpilot-v0"),
        env_steps=122 * 65_536,
        seeds=(0, 1),
        arms={"no_aux": None},
        openai=("ppg",),
    )
    monkeypatch.setattr(learning_report, "SUITES", {"s": suite})
    monkeypatch.setattr(learning_report, "RESULTS", tmp_path)
    (tmp_path / "s").mkdir()
    assert learning_report.read("s") == {}
    write(tmp_path / "s", "procgen-starpilot-v0", "no_aux", 0, [1.0] * 9 + [2.5], every=800_000)
    curves = learning_report.read("s")
    assert learning_report.table("s", curves).splitlines() == [
        "| | procgen-starpilot-v0 |",
        "|---|---|",
        "| no_aux | 2.50 (1) |",
        "| OpenAI's ppg | 7.58 ± 0.26 (3) |",
    ]
    learning_report.draw("s", curves)
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_n_pi_for_a_budget_is_read_from_openais_curves():
    table = learning_report.budgets_table().splitlines()
    best = [max(float(x.split("(")[0].strip("* ")) for x in column) for column in columns(table)]
    # Their full logs' means over the last 5 %, of N_pi = 8, 16, 16, 16, 16.
    assert np.allclose(best, [0.212, 0.401, 0.522, 0.655, 0.762], atol=0.0075)
    # The rule's N_pi, 8, 16, 16, 32, 32, is close to the best.
    by_rule = [2, 3, 3, 4, 4]
    for column, row, value in zip(columns(table), by_rule, best, strict=True):
        assert float(column[row].split("(")[0].strip("* ")) > value - 0.021


def columns(table):
    return list(zip(*(line.strip("| ").split(" | ")[1:] for line in table[2:]), strict=True))


def test_the_command_takes_all_suites_or_some(capsys):
    learning.main(["status"])
    shown = capsys.readouterr().out
    assert "mujoco: HalfCheetah-v5 ppg: " in shown
    learning.main(["status", "mujoco"])
    assert capsys.readouterr().out in shown
    with pytest.raises(SystemExit):
        learning.main(["status", "atari57"])
    assert "no suite is called atari57" in capsys.readouterr().err


@pytest.mark.parametrize("name", [n for n, s in suites.SUITES.items() if "ppo" in s.arms])
def test_ppo_has_ppgs_settings_and_networks(cluster, name):
    suite = suites.SUITES[name]
    ppg, ppo = (suite.arms[arm](suite.envs[0]) for arm in ("ppg", "ppo"))
    steps = ppg.num_envs_per_env_runner * ppg.rollout_fragment_length
    assert ppo.train_batch_size_per_learner == steps
    assert ppo.minibatch_size == steps // ppg.num_minibatches
    for setting in ("lr", "gamma", "lambda_", "clip_param", "entropy_coeff", "grad_clip"):
        assert getattr(ppo, setting) == getattr(ppg, setting), setting
    # RLlib's is a coefficient of the squared error, ours of half of it.
    assert ppo.vf_loss_coeff == 0.5 * ppg.vf_loss_coeff
    assert ppo.vf_clip_param == float("inf") and ppg.vf_clip_param is None
    assert not ppo.use_kl_loss
    if name in ("procgen", "procgen_levels", "atari"):  # the papers' PPO has one network
        ppg.training(arch="shared", e_pi=ppo.num_epochs, e_v=ppo.num_epochs)
    assert ppo.num_epochs == ppg.e_pi == ppg.e_v
    ours, rllibs = networks(ppg.training(replay_may_spill=True)), networks(ppo)
    assert sum(w.numel() for w in ours.values()) == sum(w.numel() for w in rllibs.values())
    for weights in (ours, rllibs):
        heads = [w for key, w in weights.items() if re.match(r"(pi|vf)\.", key) and w.ndim == 2]
        assert len(heads) == 2
        for head in heads:
            torch.testing.assert_close(head.norm(dim=1), torch.full((len(head),), 0.1))


def networks(config):
    """The weights at the start, without the parts that PPG alone has."""
    algo = config.build_algo()
    weights = algo.learner_group._learner.module["default_policy"].state_dict()
    algo.stop()
    only_ppgs = ("vf_aux", "observation_filter")
    return {key: w for key, w in weights.items() if not key.startswith(only_ppgs)}


class Pays(gym.Env):
    """An episode that pays these rewards."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, rewards):
        self.rewards = rewards

    def reset(self, *, seed=None, options=None):
        self.left = list(self.rewards)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = self.left.pop(0)
        return np.zeros(1, np.float32), reward, not self.left, False, {}


@pytest.fixture
def no_rewards_yet(monkeypatch):
    """The statistics as a new process has them."""
    monkeypatch.setattr(rllib_ppo, "REWARDS", RunningMeanStd())
    return rllib_ppo.REWARDS


def test_ppo_learns_from_normalised_rewards_and_reports_those_of_the_env(no_rewards_yet):
    first, second = (
        rllib_ppo.with_normalised_rewards(Pays(rewards))
        for rewards in ([1.0, 2.0, 3.0], [50.0, 0.0, 1e6])
    )
    sums, seen = [], []
    for env in (first, second):
        env.reset()
        total = 0.0
        for t in range(3):
            _, reward, *_, info = env.step(0)
            # As gymnasium counts: what was earned before an episode's last step is left out of it.
            total = env.unwrapped.rewards[t] + 0.99 * total * (t < 2)
            sums.append(total)
            std = np.std(sums)
            if len(sums) > 2:  # until then, the prior's variance of 1 shows
                assert reward == pytest.approx(min(env.unwrapped.rewards[t] / std, 10), rel=1e-2)
            seen.append(reward)
        assert info["episode"]["r"] == sum(env.unwrapped.rewards)
    assert max(seen) <= 10.0


def test_ppo_goes_on_with_its_reward_statistics(cluster, tiny, monkeypatch, no_rewards_yet):
    ppo = rllib_ppo.ppo_with_normalised_rewards(lambda: gym.make("CartPole-v1"))
    ppo.training(train_batch_size_per_learner=128, minibatch_size=64, num_epochs=1)
    monkeypatch.setitem(suites.SUITES, "tiny", replace(TINY, arms={"ppo": lambda _: ppo}))
    monkeypatch.setattr(rllib_ppo, "RETURNS", deque(maxlen=100))
    run = Run("tiny", "CartPole-v1", "ppo", 0)
    learning.train(run, tiny / "state", deadline=0)
    before = no_rewards_yet.count
    assert before >= 128
    no_rewards_yet.count = 1e-4  # another process
    returns = list(rllib_ppo.RETURNS)
    rllib_ppo.RETURNS.clear()
    learning.train(run, tiny / "state", deadline=0)
    assert no_rewards_yet.count >= before + 128
    assert list(rllib_ppo.RETURNS)[: len(returns)] == returns
