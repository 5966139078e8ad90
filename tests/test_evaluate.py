"""`rllib evaluate` and what it is made of."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.connectors.env_to_module import MeanStdFilter

from rllib_ppg import PPGConfig
from rllib_ppg.envs.procgen import ProcgenVectorEnv
from rllib_ppg.evaluation.players import make_player
from rllib_ppg.evaluation.scores import Played, Score, columns, play_episodes, score
from rllib_ppg.evaluation.trained_policy import find_checkpoint, load_policy
from rllib_ppg_cli import main
from rllib_ppg_cli.evaluate import as_json, table
from rllib_ppg_cli.play_progress import PlayProgress
from tests.support.checkpoints import SMALL_CNN, ppo
from tests.support.command import run
from tests.support.envs import Counting
from tests.support.play_envs import NextStepUneven, Paid, Uneven
from tests.support.trial_folders import write_trial

EASY = {"distribution_mode": "easy", "num_levels": 3, "start_level": 5}


def play(path, episodes=8, max_steps=None, seed=0, explore=None, **changes):
    policy = load_policy(path)
    config = policy.config_with(**changes)
    explore = config.explore if explore is None else explore
    return score(
        policy, config, episodes=episodes, max_steps=max_steps, seed=seed, explore=explore
    ).episodes


# -- Which episodes count ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "algorithm"), [(Uneven, PPGConfig), (NextStepUneven, PPGConfig), (Uneven, ppo)]
)
def test_short_episodes_are_not_more_than_their_share(checkpoint, env, algorithm):
    path = checkpoint(env, config=algorithm)
    policy = load_policy(path)
    player = make_player(policy, policy.config_with(), num_envs=4, seed=0, explore=True)
    # Until the 12th episode of all ends, the two fast envs have played at least 10.
    played = play_episodes(player, 12)
    assert sorted(played) == [(2.0, 2)] * 6 + [(30.0, 30)] * 6


def test_shares_that_are_not_even():
    class Fast:
        num_envs = 3

        def step(self):
            n = np.arange(3)
            return np.ones(3), n < 3, n < 3

    class Player(Fast):
        def step(self):
            from rllib_ppg.evaluation.players import Step

            return Step(*super().step())

    assert len(play_episodes(Player(), 7)) == 7


def test_steps_end_it_sooner_and_never_without_an_episode(checkpoint):
    path = checkpoint(Counting, {"length": 5})
    # 16 envs at a time: 80 steps are an episode of each.
    assert play(path, 100, max_steps=80) == [(5.0, 5)] * 16
    with pytest.raises(ValueError, match="no episode ended within 20 env steps"):
        play(path, 100, max_steps=20)


# -- What the policy does ---------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "start"), [(PPGConfig, 5), (ppo, 0)])
def test_the_most_probable_action(checkpoint, algorithm, start):
    space = {"action_space": gym.spaces.Discrete(3, start=start)}
    path = checkpoint(Paid, space, inputs=np.log([0.2, 0.5, 0.3]), config=algorithm)
    assert play(path, explore=False) == [(4 * (start + 1.0), 4)] * 8
    assert play(path, explore=True) != [(4 * (start + 1.0), 4)] * 8


def test_sampled_actions_have_the_policy_s_probabilities(checkpoint):
    path = checkpoint(Paid, inputs=np.log([0.2, 0.5, 0.3]))
    returns = [r for r, _ in play(path, 400)]  # explore: the config's, True
    mean, var = 4 * (0.2 * 5 + 0.5 * 6 + 0.3 * 7), 4 * (0.2 * 1.1**2 + 0.5 * 0.1**2 + 0.3 * 0.9**2)
    assert abs(np.mean(returns) - mean) < 5 * np.sqrt(var / 400)
    assert abs(np.var(returns) - var) < 0.3 * var


@pytest.mark.parametrize(("normalize", "action"), [(True, -1 + 2 * 0.5), (False, 0.5)])
def test_real_actions_are_scaled_as_the_config_says(checkpoint, normalize, action):
    space = gym.spaces.Box(-3.0, 1.0, (1,))
    path = checkpoint(Paid, {"action_space": space}, inputs=[0.5, 0.0], normalize_actions=normalize)
    assert play(path, explore=False) == [(pytest.approx(4 * action), 4)] * 8


def test_the_evaluation_s_own_settings_count(checkpoint):
    evaluation = {"explore": False, "env_config": {"bonus": 10.0}}
    path = checkpoint(Paid, inputs=np.log([0.2, 0.5, 0.3]), evaluation_config=evaluation)
    assert play(path) == [(4 * 16.0, 4)] * 8
    assert play(path, env_config={"bonus": 20.0}) == [(4 * 26.0, 4)] * 8


def test_connectors_of_rllib_s_algorithms_are_restored_and_left_alone(checkpoint):
    path = checkpoint(
        "CartPole-v1",
        config=lambda: ppo().env_runners(
            env_to_module_connector=lambda env, spaces, device: MeanStdFilter()
        ),
        iterations=1,
    )
    policy = load_policy(path)
    player = make_player(policy, policy.config_with(), num_envs=2, seed=0, explore=True)
    [connector] = [c for c in player._runner._env_to_module if isinstance(c, MeanStdFilter)]
    before = connector.get_state()
    # The observations of an iteration of 32 steps.
    assert before[None]["running_stats"][0]["num_pushes"] >= 32
    for _ in range(20):
        player.step()
    assert connector.get_state() == before


def test_a_seed_repeats_everything(checkpoint):
    path = checkpoint("CartPole-v1")
    first = play(path, 20)
    assert play(path, 20) == first
    assert play(path, 20, seed=1) != first


# -- Procgen's levels -------------------------------------------------------------------------


def levels_of(env_config):
    """Seeds of the levels that an env shows, as the engine itself reports them."""
    env = ProcgenVectorEnv("coinrun", num_envs=32, **env_config)
    env.reset(seed=0)
    seen = set()
    for _ in range(30):
        seen |= {info["level_seed"] for info in env._engine.get_info()}
        env._engine.act(np.full(32, -1))
        env._engine.observe()
    env.close()
    return seen


def test_held_out_levels_are_none_of_the_training_s(checkpoint):
    policy = load_policy(checkpoint("procgen-coinrun-v0", EASY, model_config=SMALL_CNN))
    found = columns(policy, policy.config_with())
    assert list(found) == ["training levels", "held-out levels"]
    assert levels_of(found["training levels"].env_config) == {5, 6, 7}
    held_out = levels_of(found["held-out levels"].env_config)
    assert len(held_out) > 500
    assert min(held_out) >= 8
    # All of those: the engine's levels end before 2**31 - 1.
    others = {"distribution_mode": "easy", "start_level": 8, "num_levels": 2**31 - 1 - 8}
    assert found["held-out levels"].env_config == others

    both = columns(policy, policy.config_with(env_config={"use_backgrounds": False}))
    assert [c.env_config["use_backgrounds"] for c in both.values()] == [False, False]
    # Neither are these the training's levels.
    assert list(columns(policy, policy.config_with(env_config={"num_levels": 9}))) == [
        "levels 5 to 13"
    ]
    assert list(columns(policy, policy.config_with(env="procgen-maze-v0"))) == ["levels 5 to 7"]
    assert list(columns(policy, policy.config_with(env_config={"distribution_mode": "hard"}))) == [
        "levels 5 to 7"
    ]


def test_procgen_side_by_side(checkpoint, tmp_path):
    # A game that kills novices soon, and networks that think fast.
    path = checkpoint("procgen-bigfish-v0", EASY, model_config=SMALL_CNN)
    # Neither the replay list nor the optimisers are read.
    shutil.rmtree(Path(path, "replay"), ignore_errors=True)
    optimisers = Path(path, "learner_group/learner/state.pkl")
    optimisers.write_bytes(b"-" * optimisers.stat().st_size)
    out = tmp_path / "out.json"
    ended = run("evaluate", tmp_path, "--episodes", 3, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    lines = [line.split("   ") for line in ended.stdout.splitlines()]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:] if cell] for cells in lines}
    assert rows[""] == ["training levels", "held-out levels", "gap"]
    assert rows["levels"][0] == "5 to 7"
    assert rows["episodes"] == ["3", "3"]

    found = json.loads(out.read_text())
    assert found["checkpoint"] == path
    assert (found["algorithm"], found["seed"], found["explore"]) == ("PPG", 0, True)
    assert found["env_steps_trained"] in (0, None)
    normalized = {}
    for name in ("training_levels", "held_out_levels"):
        column = found["results"][name]
        returns = np.array(column["returns"])
        assert len(returns) == len(column["lengths"]) == column["episodes"] == 3
        assert column["return_mean"] == pytest.approx(returns.mean())
        assert column["return_std_error"] == pytest.approx(returns.std(ddof=1) / np.sqrt(3))
        # Easy bigfish's range is from 1 to 40.
        normalized[name] = (returns.mean() - 1) / 39
        assert column["normalized_return_mean"] == pytest.approx(normalized[name])
    gap = normalized["training_levels"] - normalized["held_out_levels"]
    assert found["gap"]["normalized_return_mean"] == pytest.approx(gap)


def test_all_levels_are_one_column(checkpoint, capsys, quiet):
    easy = {"distribution_mode": "easy"}
    path = checkpoint("procgen-bigfish-v0", easy, model_config=SMALL_CNN)
    assert main(["evaluate", path, "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "there are no held-out levels" in out
    assert "gap" not in out


def test_the_table_s_numbers():
    of = [[Played(r, 10) for r in returns] for returns in ([0.0, 10.0], [5.0, 5.0])]
    env = "procgen-coinrun-v0", {"distribution_mode": "easy"}
    scores = {name: Score(*env, played) for name, played in zip("ab", of, strict=True)}
    rows = [" ".join(line.split()) for line in table(scores).splitlines()]
    assert "return 5.000 ± 5.000 5.000 ± 0.000 0.000 ± 5.000" in rows
    assert "normalised return 0.000 ± 1.000 0.000 ± 0.000 0.000 ± 1.000" in rows
    one = as_json({"a": Score("CartPole-v1", {}, [Played(3.0, 3)])})
    assert one["results"]["a"]["return_std_error"] is None
    assert "normalized_return_mean" not in one["results"]["a"]
    assert "gap" not in one


# -- The checkpoint ---------------------------------------------------------------------------


def test_the_newest_checkpoint_of_the_one_trial(tmp_path):
    for name in ("one/checkpoint_000002", "one/checkpoint_000010"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rllib_checkpoint.json").touch()
    (tmp_path / "one/checkpoint_000011").mkdir()  # which was never finished
    newest = str(tmp_path / "one/checkpoint_000010")
    for place in ("one/checkpoint_000010", "one", ""):
        assert find_checkpoint(str(tmp_path / place)) == newest
    older = str(tmp_path / "one/checkpoint_000002")
    assert find_checkpoint(older) == older
    (tmp_path / "two").mkdir()
    shutil.copytree(older, tmp_path / "two/checkpoint_000000")
    with pytest.raises(ValueError, match=r"checkpoints of 2 trials: name one, as in .*/one"):
        find_checkpoint(str(tmp_path))


def test_the_newest_checkpoint_of_a_trial_is_checked_as_one_that_is_named(checkpoint, tmp_path):
    path = Path(checkpoint("CartPole-v1"))
    trial = tmp_path / "trial"
    newest = Path(shutil.copytree(path, trial / "checkpoint_000000"))
    state = newest / "learner_group" / "learner" / "state.pkl"
    state.write_bytes(state.read_bytes()[:-1])
    for place in (newest, trial, tmp_path / "trial/"):
        with pytest.raises(ValueError, match=r"checkpoint_000000 is damaged: learner_group"):
            find_checkpoint(str(place))


def test_of_a_sweep_the_best_trial_is_evaluated(checkpoint, tmp_path, capsys, quiet):
    path = checkpoint("CartPole-v1")
    for name, final in (("a", 7.0), ("b", 9.0), ("c", 8.0), ("none", 10.0)):
        trial = write_trial(tmp_path / "sweep", [1.0, final], name=name)
        if name != "none":
            shutil.copytree(path, trial / "checkpoint_000000")
    assert main(["evaluate", f"{tmp_path}/sweep", "--episodes", "1"]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "the best of 3 trials with checkpoints: return 9 after 2k env steps"
    assert re.fullmatch(r"checkpoint: .*PPG_CartPole-v1_b_\S*/checkpoint_000000", second)
    other = write_trial(tmp_path / "sweep", [1.0], name="d", env="Acrobot-v1")
    shutil.copytree(path, other / "checkpoint_000000")
    assert main(["evaluate", f"{tmp_path}/sweep"]) == 2
    assert "trials on 2 environments, " in capsys.readouterr().err


def test_ray_is_not_started(checkpoint):
    path = checkpoint("CartPole-v1")
    code = (
        "import ray; from rllib_ppg_cli import main\n"
        f"assert main(['evaluate', {path!r}, '--episodes', '2']) == 0\n"
        "assert not ray.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--episodes 0", "'--episodes': 0 is not in the range x>=1"),
        ("--env CartPole-v2 --episodes 1", "CartPole-v2"),
        ("--env Acrobot-v1", "the policy's observations are"),
        ("--env-config '{\"gravity\": 3}'", "env 'CartPole-v1' can't be made"),
        ("--config '{\"expore\": 3}'", "did you mean 'explore'?"),
        ("--config '{\"seed\": 7}'", "set the seed of the episodes with --seed"),
        ("--out /nowhere/x.json", "there is no folder /nowhere"),
        ("--sead 3", "did you mean '--seed'?"),
    ],
)
def test_bad_input_is_one_sentence(checkpoint, capsys, quiet, options, complaint):
    import shlex

    path = checkpoint("CartPole-v1")
    assert main(["evaluate", path, *shlex.split(options)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rllib: error: ")
    assert err.count("\n") == 1
    assert complaint in err


def test_what_is_no_checkpoint(tmp_path, capsys, quiet):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert f"{tmp_path} is not a checkpoint" in capsys.readouterr().err


# -- Progress -----------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rllib_ppg_cli.play_progress.time.monotonic", lambda: now[0])

    def go_on(seconds):
        now[0] += seconds

    return go_on


def test_a_log_file_gets_a_line_now_and_then_and_steps_are_named_once(clock, capsys):
    progress = PlayProgress("Maze-v0", 3, max_steps=None)
    for second in range(1, 100):
        clock(1)
        progress(int(second > 10), 1000 * second)
    err = capsys.readouterr().err
    assert err.splitlines() == [
        "Maze-v0: 1 of 3 episodes, 30,000 steps",
        "Maze-v0: no episode has ended for 30 s; if they never end, --steps N sets a limit",
        "Maze-v0: 1 of 3 episodes, 60,000 steps",
        "Maze-v0: 1 of 3 episodes, 90,000 steps",
    ]


def test_steps_are_not_named_to_who_gave_them(clock, capsys):
    progress = PlayProgress("Maze-v0", 3, max_steps=10**6)
    clock(100)
    progress(0, 1000)
    assert capsys.readouterr().err == "Maze-v0: 0 of 3 episodes, 1,000 steps\n"


def test_a_terminal_gets_a_line_that_fits_and_is_wiped(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "10")
    progress = PlayProgress("Maze-v0", 3, max_steps=2000)
    clock(1)
    progress(0, 1000)
    progress(0, 2000)
    assert capsys.readouterr().err == "\r\x1b[KMaze-v0: \r\x1b[K"
