"""Properties over any input: the paper's formulas step by step in Python's own floats, and sets.

Deterministic: `derandomize`, and arrays from numpy's generators with drawn seeds.
"""

import math
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_ppg.data.advantages import gae, successor_values
from rllib_ppg.data.minibatches import Segments, interleave_row_ids, shard_cuts
from rllib_ppg.data.reward_norm import RETURN_GAMMA, discounted_returns
from rllib_ppg.data.rollout import Rollout
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.envs.packed_observations import is_packed
from rllib_ppg.envs.spaces import Actions, flat_space, flatten_observation
from tests.support.learners import (
    T,
    aux_phase,
    make_learner,
    parameters,
    policy_phase,
    without_memory,
)

pytestmark = pytest.mark.unit

PATTERNS = ("random", "all terminated", "all truncated", "no end", "ends at the last step")
seeds = st.integers(0, 2**31)


def examples(n):
    return settings(deadline=None, derandomize=True, database=None, max_examples=n)


def flags(rng, pattern, N, T):
    """`terminated` and `truncated` of a rollout, `[N, T]`; none where both are."""
    terminated, truncated = np.zeros((2, N, T), bool)
    if pattern == "random":
        terminated[:] = rng.random((N, T)) < 0.3
        truncated[:] = (rng.random((N, T)) < 0.3) & ~terminated
    elif pattern == "all terminated":
        terminated[:] = True
    elif pattern == "all truncated":
        truncated[:] = True
    elif pattern == "ends at the last step":
        truncated[:, -1] = rng.random(N) < 0.5
        terminated[:, -1] = ~truncated[:, -1]
    return terminated, truncated


@st.composite
def rollouts(draw, num_actions=4, shape=(3,), max_rows=5, max_steps=7, T=None):
    """Rollouts of both autoreset modes; a NEXT_STEP env's resets are steps that are not valid."""
    N, rng = draw(st.integers(1, max_rows)), np.random.default_rng(draw(seeds))
    T = T or draw(st.integers(1, max_steps))
    terminated, truncated = flags(rng, draw(st.sampled_from(PATTERNS)), N, T)
    valid, same_step = np.ones((N, T), bool), draw(st.booleans())
    if not same_step:
        resetting = rng.random(N) < 0.3  # as the rollout before has left it
        for t in range(T):
            valid[:, t] = ~resetting
            resetting = (terminated[:, t] | truncated[:, t]) & valid[:, t]
    rewards = rng.normal(size=(N, T)).astype(np.float32) * draw(st.sampled_from([0, 1, 1e4]))
    rewards[~valid] = 0.0
    terminated &= valid
    truncated &= valid
    final_index = np.argwhere(truncated) if same_step else np.empty((0, 2), np.int64)
    rng.shuffle(final_index)

    def obs(*lead):
        return rng.normal(size=(*lead, *shape)).astype(np.float32)

    return Rollout(
        obs=obs(N, T),
        actions=rng.integers(0, num_actions, (N, T)),
        logp=rng.normal(-1.4, 0.3, (N, T)).astype(np.float32),
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        **without_memory(N),
        last_obs=obs(N),
        final_obs=obs(len(final_index)),
        final_index=final_index,
    )


# -- Advantages ------------------------------------------------------------------------------------


def V(obs):
    """A value that each observation alone decides, as Python's float."""
    return float(np.float64(obs[0]))


def episodes_of(r, n):
    """Row n's episodes: the steps of each, and V of the state that follows its last one."""
    T, steps = r.valid.shape[1], []
    final = {tuple(i): V(o) for i, o in zip(r.final_index.tolist(), r.final_obs, strict=True)}
    for t in range(T):
        if not r.valid[n, t]:
            continue
        steps.append(t)
        after = V(r.obs[n, t + 1]) if t + 1 < T else V(r.last_obs[n])
        if r.terminated[n, t]:
            yield steps, 0.0
        elif r.truncated[n, t]:
            yield steps, final.get((n, t), after)
        elif t + 1 == T:
            yield steps, after
        else:
            continue
        steps = []


@examples(200)
@given(rollouts(), st.floats(0, 1), st.floats(0, 1))
def test_gae_is_the_papers_sum(r, gamma, lambda_):
    """A_t = sum_l (gamma lambda)^l delta_{t+l} within an episode: eq. 16 of the GAE paper."""
    values = r.obs[..., 0].astype(np.float64)
    nxt = successor_values(
        r, values, r.last_obs[:, 0].astype(float), r.final_obs[:, 0].astype(float)
    )
    done = r.terminated | r.truncated
    A, V_targ = gae(r.rewards.astype(np.float64), values, nxt, done, gamma, lambda_)
    assert A.shape == V_targ.shape == r.valid.shape and A.dtype == V_targ.dtype == np.float32
    seen = 0
    for n in range(len(r)):
        for steps, bootstrap in episodes_of(r, n):
            v = [V(r.obs[n, t]) for t in steps] + [bootstrap]
            delta = [float(r.rewards[n, t]) + gamma * v[k + 1] - v[k] for k, t in enumerate(steps)]
            for k, t in enumerate(steps):
                expected = sum((gamma * lambda_) ** i * d for i, d in enumerate(delta[k:]))
                scale = 1.0 + sum(map(abs, delta))
                assert abs(A[n, t] - expected) < 1e-6 * scale
                assert abs(V_targ[n, t] - (expected + v[k])) < 1e-6 * scale
                seen += 1
    assert seen == r.env_steps() == r.valid.sum()


@examples(100)
@given(rollouts(), seeds)
def test_steps_that_are_no_transitions_have_no_advantage_to_give(r, seed):
    """Whatever the rewards and values of resets are, those of transitions stay the same."""
    rng = np.random.default_rng(seed)

    def advantages(rewards, values):
        last, final = r.last_obs[:, 0], r.final_obs[:, 0]
        nxt = successor_values(r, values, last, final)
        return gae(rewards, values, nxt, r.terminated | r.truncated, 0.9, 0.8)

    values = r.obs[..., 0].copy()
    # What a reset step is acted on is the state that the episode before it was truncated in.
    bootstraps = np.zeros_like(r.valid)
    bootstraps[:, 1:] = r.truncated[:, :-1]
    other, rewards = values.copy(), r.rewards.copy()
    free = ~r.valid & ~bootstraps
    other[free] = rng.normal(size=free.sum())
    rewards[~r.valid] = rng.normal(size=(~r.valid).sum())
    for a, b in zip(advantages(r.rewards, values), advantages(rewards, other), strict=True):
        np.testing.assert_array_equal(a[r.valid], b[r.valid])


@examples(200)
@given(rollouts(), st.integers(2, 4), seeds)
def test_a_split_rollout_is_the_whole_one(r, num_shards, seed):
    """Successors of the shards' steps are those of the whole's; each row is in one of them."""
    N = len(r)
    cuts = np.random.default_rng(seed).integers(0, N + 1, num_shards - 1)
    shards = r.split([0, *sorted(cuts.tolist()), N])
    assert sum(s.env_steps() for s in shards) == r.env_steps()
    for name in ("obs", "actions", "logp", "rewards", "terminated", "truncated", "valid"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(s, name) for s in shards]), getattr(r, name)
        )

    def successors(r):
        return successor_values(r, r.obs[..., 0].copy(), r.last_obs[:, 0], r.final_obs[:, 0])

    np.testing.assert_array_equal(np.concatenate([successors(s) for s in shards]), successors(r))
    assert sum(len(s.final_obs) for s in shards) == len(r.final_obs)


@examples(100)
@given(rollouts(), seeds)
def test_discounted_returns_step_by_step(r, seed):
    rng = np.random.default_rng(seed)
    first = rng.random(r.valid.shape) < 0.3
    start = rng.normal(size=len(r)).astype(np.float32)
    got = discounted_returns(r.rewards, first, r.valid, start)
    for n in range(len(r)):
        running = float(start[n])
        for t in range(r.valid.shape[1]):
            if first[n, t]:
                running = float(r.rewards[n, t])
            elif r.valid[n, t]:
                running = float(r.rewards[n, t]) + RETURN_GAMMA * running
            else:
                running = float(r.rewards[n, t]) + running
            assert got[n, t] == pytest.approx(running, rel=1e-4, abs=1e-5 * (1 + abs(start[n])))


# -- Moments ---------------------------------------------------------------------------------------


@examples(100)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
    st.sampled_from([(), (2,), (2, 3)]),
    st.sampled_from([0.0, 1.0, 1e6]),
    seeds,
)
def test_moments_add_up_to_those_of_all_samples(counts, shape, offset, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n, *shape)) + offset for n in counts]
    total = Moments.of(parts[0])
    for part in parts[1:]:
        total = total + Moments.of(part)
    everything = np.concatenate(parts)
    assert total.count == len(everything)
    if len(everything):
        for index in np.ndindex(*shape):
            xs = [float(x[index]) for x in everything]
            mean = math.fsum(xs) / len(xs)
            M2 = math.fsum((x - mean) ** 2 for x in xs)
            np.testing.assert_allclose(np.asarray(total.mean)[index], mean, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(np.asarray(total.M2)[index], M2, rtol=1e-6, atol=1e-8)
        assert np.all(total.std > 0) and np.all(np.isfinite(total.std))


# -- Minibatches -----------------------------------------------------------------------------------


@examples(150)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 5),
    seeds,
)
def test_an_epoch_has_each_state_once_over_any_number_of_learners(
    counts, steps_of_segment, segments_of_row, num_minibatches, num_learners, seed
):
    """Of env runners with so many rows each; minibatches are equal where they can be."""
    L, T, rows = steps_of_segment, steps_of_segment * segments_of_row, sum(counts)

    def epoch(num_learners):
        """Minibatches as sets of (row, step)."""
        minibatches = [set() for _ in range(num_minibatches)]
        learners = [[] for _ in range(num_learners)]
        for numbers in interleave_row_ids(counts):
            cuts = shard_cuts(numbers, rows, num_learners)
            for k, (a, b) in enumerate(pairwise(cuts)):
                learners[k].append(numbers[a:b])
        for mine in learners:
            states = [(int(row), t) for part in mine for row in part for t in range(T)]
            for m, index in enumerate(Segments(mine, rows, T, L).epoch((seed, 0), num_minibatches)):
                assert len({*index.tolist()}) == len(index)
                taken = {states[i] for i in index}
                assert not taken & minibatches[m]
                minibatches[m] |= taken
        return minibatches

    one = epoch(1)
    assert sum(map(len, one)) == rows * T
    assert set().union(*one) == {(n, t) for n in range(rows) for t in range(T)}
    sizes = [len(m) // L for m in one]
    assert max(sizes) - min(sizes) <= 1
    if rows * segments_of_row % num_minibatches == 0:
        assert len({*sizes}) == 1
    for m in one:  # segments are whole
        assert m == {(n, t - t % L + s) for n, t in m for s in range(L)}
    assert epoch(num_learners) == one


# -- Spaces ----------------------------------------------------------------------------------------

discrete = st.builds(
    lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)
)
multi_discrete = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete)


def boxes(shapes, dtypes):
    return st.builds(
        lambda shape, dtype: spaces.Box(0, 5, tuple(shape), dtype), shapes, st.sampled_from(dtypes)
    )


def nested(leaves):
    names = st.sampled_from(["a", "b", "zz", "C"])
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3).map(lambda x: spaces.Tuple(tuple(x)))
            | st.dictionaries(names, inner, min_size=1, max_size=3).map(spaces.Dict)
        ),
        max_leaves=4,
    )


@st.composite
def vectors(draw):
    """Boxes whose dimensions have two bounds, equal ones, one, none, or some too far away."""
    dtype = draw(st.sampled_from(["e", "f", "d"]))
    far = [1e10, float(np.finfo("f").max), np.inf] if dtype != "e" else [np.inf]
    n = draw(st.integers(1, 3))
    low = [draw(st.sampled_from([-3.0, 0.0, 5.0, *(-x for x in far)])) for _ in range(n)]
    high = [draw(st.sampled_from([5.0, 1000.0, *far])) for _ in range(n)]
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=np.dtype(dtype).type)


action_spaces = nested(discrete | multi_discrete | vectors())
exact_in_float32 = action_spaces.filter(
    lambda space: all(part.dtype != np.float64 for part in leaves_of(space))
)
observation_spaces = nested(
    discrete
    | multi_discrete
    | st.integers(1, 4).map(spaces.MultiBinary)
    | boxes(st.lists(st.integers(1, 3), max_size=3), ["f", "d", np.uint8, np.int32])
)


def leaves(space, x):
    """The arrays of a nested batch, Dicts in the order of their sorted keys."""
    if isinstance(space, spaces.Dict):
        return [leaf for key in sorted(space) for leaf in leaves(space[key], x[key])]
    if isinstance(space, spaces.Tuple):
        return [leaf for part, y in zip(space, x, strict=True) for leaf in leaves(part, y)]
    return [x]


@examples(150)
@given(exact_in_float32, st.integers(1, 4), seeds)
def test_actions_come_back_as_they_were_packed(space, B, seed):
    batch = gym.vector.utils.batch_space(space, B)
    batch.seed(seed)
    sample = batch.sample()
    actions = Actions(space)
    packed = actions.pack(sample)
    assert packed.shape == (B, *actions.shape)
    kept = np.empty(packed.shape, actions.dtype)
    kept[:] = packed  # as a rollout keeps them
    back = actions.unpack(torch.from_numpy(kept))
    back = back if isinstance(back, list) else [back]
    expected = leaves(space, sample)
    assert len(back) == len(expected)
    for got, want in zip(back, expected, strict=True):
        np.testing.assert_array_equal(got.numpy().reshape(want.shape), want)


@examples(150)
@given(action_spaces, st.booleans(), st.booleans(), seeds)
def test_any_policys_action_is_one_of_the_envs(space, normalized, clip, seed):
    """What is drawn counts from 0, and is any number for a Box."""
    rng, B = np.random.default_rng(seed), 3

    def drawn(space):
        if isinstance(space, spaces.Dict):
            return {key: drawn(part) for key, part in space.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(map(drawn, space))
        if isinstance(space, spaces.Discrete):
            return rng.integers(0, space.n, B)
        if isinstance(space, spaces.MultiDiscrete):
            return rng.integers(0, space.nvec, (B, len(space.nvec)))
        return rng.normal(scale=3, size=(B, *space.shape)).astype(np.float32)

    out = Actions(space).for_env(drawn(space), normalized=normalized, clip=clip)
    in_bounds = normalized or clip
    for part, x in zip(leaves_of(space), leaves(space, out), strict=True):
        if isinstance(part, spaces.Box) and not in_bounds:
            continue
        assert all(map(part.contains, x)), (part, x)


@examples(100)
@given(vectors(), seeds)
def test_each_dimension_of_a_box_is_scaled_by_its_own_bounds(space, seed):
    drawn = np.random.default_rng(seed).uniform(-2, 2, space.shape).astype(np.float32)
    out = Actions(space).for_env(drawn, normalized=True, clip=False)
    for x, a, low, high in zip(out, drawn, space.low, space.high, strict=True):
        if low > -1e9 and high < 1e9:
            expected = low + (np.clip(float(a), -1, 1) + 1) / 2 * (float(high) - float(low))
        elif low > -1e9:
            expected = low + max(a + 1, 0)
        elif high < 1e9:
            expected = high + min(a - 1, 0)
        else:
            expected = a
        # Of numbers up to 1,000 there are steps of 6e-5 in float32 and 0.5 in float16.
        assert x == pytest.approx(expected, abs=0.5 if space.dtype == np.float16 else 2e-4)


def leaves_of(space):
    return leaves(space, space)


@examples(150)
@given(observation_spaces.filter(lambda space: not is_packed(space)), seeds)
def test_observations_are_flattened_as_gymnasium_does(space, seed):
    space.seed(seed)
    obs = space.sample()
    got = flatten_observation(space, obs)
    assert got.dtype == np.float32 and got.shape == flat_space(space).shape
    np.testing.assert_array_equal(got, spaces.flatten(space, obs).astype(np.float32))
    expected = []
    for part, x in zip(in_its_order(space), in_its_order(space, obs), strict=True):
        if isinstance(part, spaces.Discrete):
            expected += [float(i == x - part.start) for i in range(part.n)]
        elif isinstance(part, spaces.MultiDiscrete):
            expected += [float(i == k) for n, k in zip(part.nvec, x, strict=True) for i in range(n)]
        else:
            expected += [float(np.float32(y)) for y in np.ravel(x)]
    assert got.tolist() == expected
    assert np.all(got >= flat_space(space).low) and np.all(got <= flat_space(space).high)


def in_its_order(space, x=None):
    """The parts of a space, or of one of its samples, in the order that a Dict has."""
    x = space if x is None else x
    if isinstance(space, spaces.Dict):
        return [y for key in space for y in in_its_order(space[key], x[key])]
    if isinstance(space, spaces.Tuple):
        return [y for part, z in zip(space, x, strict=True) for y in in_its_order(part, z)]
    return [x]


# -- The learner -----------------------------------------------------------------------------------


def train(learner, r, **kwargs):
    """Both phases; their metrics, and the parameters after them."""
    metrics, infos, blocks = policy_phase(learner, r, **kwargs)
    aux = aux_phase(learner, list(zip(infos, blocks, strict=True)))
    # The logger knows all names from before, and counts its whole life.
    parts = [{k: v for k, v in metrics.items() if k[:4] not in ("num_", "aux/")}]
    parts += [{k: v for k, v in aux[-1].items() if k[:4] == "aux/"}]  # and of each epoch
    return parts, parameters(learner)


def restored(learner, before):
    """The learner with the parameters that it had before, and optimisers that have not begun."""
    with torch.no_grad():
        for name, p in learner.module["default_policy"].named_parameters():
            p.copy_(before[name])
    for optimizer in learner._named_optimizers.values():
        optimizer.state.clear()
    return learner


SETTINGS = {
    "as in the paper": {"e_aux": 1},
    "value epochs": {"e_aux": 2, "e_v": 2, "arch": "detach", "segment_length": 2},
    "KL": {"e_aux": 1, "kl_penalty": 1.0, "arch": "shared", "num_minibatches": 4},
    "states": {"e_aux": 1, "segment_length": 1, "num_minibatches": 7, "micro_batch_size": 3},
}


@pytest.fixture(scope="module")
def learners():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for networks as small as these; several would wait for each other
    yield {name: make_learner(**settings) for name, settings in SETTINGS.items()}
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SETTINGS)
@examples(20)
@given(r=rollouts(T=T), scale=st.sampled_from([None, 1e-4, 3.0]), seed=seeds)
def test_both_phases_of_any_rollout(learners, name, r, scale, seed):
    """Finite; what steps hold that are no transitions matters only as their states' successors."""
    learner, rng = learners[name], np.random.default_rng(seed)
    before = parameters(learner)
    metrics, after = train(learner, r, reward_scale=scale)
    assert all(metrics) and all(np.isfinite(value) for part in metrics for value in part.values())
    assert all(torch.isfinite(p).all() for p in after.values())
    bootstraps = np.zeros_like(r.valid)
    bootstraps[:, 1:] = r.truncated[:, :-1]
    masked, free = ~r.valid, ~r.valid & ~bootstraps
    r.obs[free] = rng.normal(size=(free.sum(), 3))
    r.actions[masked] = rng.integers(0, 4, masked.sum())
    r.logp[masked] = rng.normal(size=masked.sum())
    r.rewards[masked] = rng.normal(size=masked.sum())
    restored(learner, before)
    other_metrics, other = train(learner, r, reward_scale=scale)
    for key, p in after.items():
        torch.testing.assert_close(other[key], p, rtol=0, atol=0, msg=key)
    assert other_metrics == metrics
    restored(learner, before)
