"""RLlib's own env runners: what they sample is what modules acted on, and trains as arrays do."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import MeanStdFilter

from rllib_ppg import PPG
from rllib_ppg.envs.spaces import Actions
from rllib_ppg.sampling.episodes_env_runner import SingleAgentEpisodesEnvRunner
from rllib_ppg.sampling.episodes_to_rollouts import EpisodePart, to_rollout
from tests.support.algorithms import learner_metrics, small
from tests.support.envs import AnySpaces, Counting, Masked
from tests.support.learners import (
    ACT,
    OBS,
    N,
    T,
    aux_phase,
    make_learner,
    make_rollout,
    parameters,
    policy_phase,
)

STILL = {"lr": 1e-12, "aux_lr": 1e-12}  # the policy in training stays the one that acted
LSTM = {"use_lstm": True, "lstm_cell_size": 8, "fcnet_hiddens": [8]}


class Lengths(RLlibCallback):
    """A user's callback, which needs RLlib's episode objects."""

    def on_episode_end(self, *, episode, metrics_logger, **kwargs):
        metrics_logger.log_value("my_length", len(episode), window=10)


class Doubled(ConnectorV2):
    """A user's connector, which changes what the module gets and not the episode."""

    def __call__(self, *, batch, episodes, **kwargs):
        for episode in self.single_agent_episode_iterator(episodes):
            doubled = 2 * episode.get_observations(-1)
            self.add_batch_item(batch, "obs", doubled, episode)
        return batch


def episode_parts(r):
    """The rows of a rollout, cut where episodes end and where rows do."""
    final = {tuple(i): obs for i, obs in zip(r.final_index, r.final_obs, strict=True)}
    for n in range(len(r)):
        start = 0
        for t in range(T):
            if not (r.terminated[n, t] or r.truncated[n, t] or t == T - 1):
                continue
            steps = slice(start, t + 1)
            bootstrap = final.get((n, t), r.last_obs[n])
            yield EpisodePart(
                obs=r.obs[n, steps], actions=r.actions[n, steps], logp=r.logp[n, steps],
                rewards=r.rewards[n, steps], states=np.empty((t + 1 - start, 0)),
                begins=start > 0, terminated=bool(r.terminated[n, t]),
                final_obs=None if r.terminated[n, t] else bootstrap,
            )  # fmt: skip
            start = t + 1


@pytest.mark.unit
def test_the_same_data_have_the_same_losses_on_both_paths():
    r = make_rollout()
    r.valid[:] = True
    rows = to_rollout([*episode_parts(r)], T, T, OBS, Actions(ACT), 0, (1, 1))
    assert rows.valid.all() and len(rows) == N
    batched, episodes = (make_learner(double=True, e_aux=2) for _ in range(2))
    results = []
    for learner, rollout in ((batched, r), (episodes, rows)):
        metrics, infos, blocks = policy_phase(learner, rollout)
        results.append((metrics, aux_phase(learner, list(zip(infos, blocks, strict=True)))))
    (expected, expected_aux), (metrics, aux) = results
    assert metrics == pytest.approx(expected, rel=1e-9)
    for got, want in zip(aux, expected_aux, strict=True):
        assert got == pytest.approx(want, rel=1e-9, abs=1e-12, nan_ok=True)
    for name, w in parameters(batched).items():
        np.testing.assert_allclose(parameters(episodes)[name], w, rtol=1e-9)


@pytest.mark.unit
@pytest.mark.parametrize("num_state", [0, 2])
def test_parts_fill_rows_and_those_of_a_memory_have_rows_of_their_own(num_state):
    rng = np.random.default_rng(0)
    lengths = [3, T + 2, 1, 2 * T]
    parts = [
        EpisodePart(
            obs=rng.normal(size=(n, 3)),
            actions=np.arange(n),
            logp=-np.ones(n),
            rewards=np.arange(n),
            states=np.tile(np.arange(n)[:, None], num_state),
            begins=i != 1,
            terminated=i == 2,
            final_obs=None if i == 2 else np.full(3, i),
        )
        for i, n in enumerate(lengths)
    ]
    r = to_rollout(parts, T, 3, OBS, Actions(ACT), num_state, (4, 2))
    firsts = [0, T, 3 * T, 4 * T] if num_state else [0, 3, T + 5, T + 6]
    assert len(r) == (6 if num_state else -(-sum(lengths) // T))
    assert r.valid.sum() == sum(lengths)
    for i, (first, part) in enumerate(zip(firsts, parts, strict=True)):
        steps = np.arange(first, first + lengths[i])
        np.testing.assert_allclose(r.obs.reshape(-1, 3)[steps], part.obs, rtol=1e-6)
        np.testing.assert_array_equal(r.rewards.ravel()[steps], part.rewards)
        row, step = divmod(steps[-1], T)
        assert r.terminated[row, step] == part.terminated == (not r.truncated[row, step])
    finals = {tuple(i): obs[0] for i, obs in zip(r.final_index, r.final_obs, strict=True)}
    ends = [divmod(first + n - 1, T) for first, n in zip(firsts, lengths, strict=True)]
    assert finals == {ends[0]: 0, ends[1]: 1, ends[3]: 3}
    if num_state:
        # Segments of 3 steps; the third part has rows 4 and 5.
        np.testing.assert_array_equal(r.state_in[[4, 5], :, 0], [[0, 3, 6], [T, T + 3, T + 6]])
        assert r.begins.tolist() == [True, False, False, True, True, False]
        np.testing.assert_allclose(r.last_obs[4], r.obs[5, 0])


def config_of(env, kind):
    config = small(env, segment_length=5 if "memory" in kind else None, **STILL)
    config.env_runners(num_env_runners=0)
    if "connector" in kind:
        config.env_runners(env_to_module_connector=lambda *_, **__: Doubled())
    elif "statistics" in kind:
        config.env_runners(env_to_module_connector=lambda *_, **__: MeanStdFilter())
    else:
        config.callbacks(Lengths)
    if "filter" in kind:
        config.env_runners(observation_filter="MeanStdFilter")
    if "memory" in kind:
        config.rl_module(model_config=LSTM)
    return config


PARTS = {
    "observation_space": Dict({"i": Box(0, 255, (6, 6, 3), np.uint8), "v": Box(-1, 1, (2,))}),
    "action_space": Tuple((Discrete(3, start=2), Box(-2, 2, (2,)))),
}


@pytest.mark.parametrize(
    ("env", "env_config", "kind"),
    [
        ("CartPole-v1", {}, "callback"),
        ("CartPole-v1", {}, "callback, memory"),
        ("CartPole-v1", {}, "connector, memory"),
        ("CartPole-v1", {}, "statistics"),
        ("Pendulum-v1", {}, "callback, filter"),
        (AnySpaces, PARTS, "callback"),
        (Masked, {"image": True}, "callback"),
    ],
    ids=str,
)
def test_learners_train_on_what_the_module_acted_on(build, env, env_config, kind):
    algo = build(config_of(env, kind).environment(env_config=env_config))
    assert isinstance(algo.env_runner, SingleAgentEpisodesEnvRunner)
    for _ in range(2):
        result = algo.train()
        metrics = learner_metrics(result)
        assert metrics["approx_kl"] < 1e-10
    assert abs(metrics["aux"]["clone_kl"]) < 1e-6
    assert result["num_env_steps_sampled_lifetime"] >= 2 * 4 * 16
    if env == "CartPole-v1" and "callback" in kind:
        assert result["env_runners"]["my_length"] > 0


def test_a_truncated_episode_is_bootstrapped_from_its_own_end(build):
    config = config_of(Counting, "connector").environment(
        env_config={"length": 5, "end": "truncated"}
    )
    runner = build(config).env_runner
    _, r = runner.sample_rollout(1, 0, ["default_policy"])
    ends = [tuple(i) for i in r.final_index]
    assert len(ends) == r.truncated.sum() > 4
    for (n, t), final in zip(ends, r.final_obs, strict=True):
        # Seconds into the episode, and its number, doubled by the connector.
        np.testing.assert_array_equal(final, r.obs[n, t] + [2, 0])
        if t + 1 < r.valid.shape[1] and r.valid[n, t + 1] and final[0] == 10:
            assert r.obs[n, t + 1][0] == 0


def test_a_restored_run_begins_new_episodes_and_says_so(build, tmp_path, caplog):
    algo = build(config_of("CartPole-v1", "callback"))
    algo.train()
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    other = PPG.from_checkpoint(path)
    try:
        assert "start new episodes (RLlib's env runners can't save theirs)" in caplog.text
        assert other.train()["ppg"]["num_aux_phases_lifetime"] == 1
    finally:
        other.stop()


def test_evaluation_treats_observations_as_training_does(build):
    config = config_of("CartPole-v1", "callback, memory")
    algo = build(config.evaluation(evaluation_interval=1, evaluation_duration=2))
    assert algo.train()["evaluation"]["env_runners"]["my_length"] > 5
