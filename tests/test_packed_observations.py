"""Observations with images, vectors and action masks as their parts."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_ppg import PPGConfig, load_policy
from rllib_ppg.envs.packed_observations import Packing, packed_space
from rllib_ppg.evaluation import onnx
from rllib_ppg.evaluation.players import make_player
from rllib_ppg.networks.rl_module import PPGCatalog, PPGTorchRLModule, check_model_config
from tests.support.comparison import check_same, timeless
from tests.support.envs import AnySpaces, Masked

CAMERA = spaces.Box(0, 255, (12, 16, 3), np.uint8)
ROBOT = spaces.Dict({
    "joints": spaces.Box(-1, 1, (3,), np.float64),
    "camera": CAMERA,
    "mode": spaces.Discrete(3, start=1),
    "inner": spaces.Dict({
        "depth": spaces.Box(0.0, 1.0, (8, 10, 1), np.float32),
        "contacts": spaces.MultiBinary(5),
        "grid": spaces.MultiDiscrete([2, 4]),
    }),
})  # fmt: skip
SMALL = {"impala_channels": [4], "impala_dense": 8, "fcnet_hiddens": [16]}


def as_batch(samples):
    """Samples of a space in arrays, as a vector env returns them."""
    first = samples[0]
    if isinstance(first, dict):
        return {key: as_batch([x[key] for x in samples]) for key in first}
    if isinstance(first, tuple):
        return tuple(as_batch([x[i] for x in samples]) for i in range(len(first)))
    return np.stack(samples)


# -- Packing -----------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize("space", [ROBOT, spaces.Tuple(ROBOT.values())], ids=["Dict", "Tuple"])
def test_parts_come_out_as_they_went_in(space):
    space.seed(0)
    samples, packing = [space.sample() for _ in range(5)], Packing(space)
    packed = packing.pack(as_batch(samples), 5)
    parts = packing.unpack(torch.from_numpy(packed))
    camera, inner, joints, mode = ROBOT if isinstance(space, spaces.Dict) else range(4)
    assert {*parts} == {str(camera), f"{inner}_depth", "vector"}
    for i, x in enumerate(samples):
        images = {str(camera): x[camera], f"{inner}_depth": x[inner]["depth"]}
        for name, image in images.items():
            assert parts[name][i].numpy().dtype == image.dtype
            np.testing.assert_array_equal(parts[name][i], image)
        vector = [
            x[inner]["contacts"],
            *(np.eye(n)[k] for n, k in zip((2, 4), x[inner]["grid"], strict=True)),
            x[joints],
            np.eye(3)[x[mode] - 1],
        ]
        np.testing.assert_allclose(parts["vector"][i], np.concatenate(vector), rtol=1e-6)
        np.testing.assert_array_equal(packing.pack(x, 1)[0], packed[i])
    np.testing.assert_array_equal(packing.vectors(packed), parts["vector"])
    exact = 12 * 16 * 3 + 8 * 10 * 4 + 4 * (3 + 3 + 5 + 6)
    assert exact <= packing.nbytes < exact + 3 * 8


@pytest.mark.unit
@pytest.mark.parametrize(
    ("part", "value", "error"),
    [
        ("joints", [0.0, np.nan, 0.0], "NaN or infinite"),
        ("mode", 0, "a number that is not of Discrete"),
        ("mode", 4, "a number that is not of Discrete"),
        ("camera", np.zeros((3, 12, 16), np.uint8), "an image of an observation is uint8"),
        ("camera", np.full((12, 16, 3), 0.5), "an image of an observation is float64"),
    ],
)
def test_what_is_no_observation(part, value, error):
    with pytest.raises(ValueError, match=error):
        Packing(ROBOT).pack({**ROBOT.sample(), part: np.asarray(value)}, 1)


@pytest.mark.unit
@pytest.mark.parametrize("space", [
    spaces.Dict({"vector": CAMERA}),
    spaces.Dict({"a_b": CAMERA, "a": spaces.Dict({"b": CAMERA})}),
])  # fmt: skip
def test_names_that_are_taken(space):
    with pytest.raises(ValueError, match="need other keys"):
        Packing(space)


def module_of(space, act=None, **model_config):
    torch.manual_seed(0)
    return PPGTorchRLModule(
        observation_space=packed_space(space),
        action_space=act or spaces.Discrete(4),
        model_config={"arch": "dual", **SMALL, **model_config},
    )


def forward(module, samples, **kwargs):
    packing = Packing(module.observation_space.original_space)
    obs = torch.from_numpy(packing.pack(as_batch(samples), len(samples)))
    return module.forward_train({Columns.OBS: obs}, **kwargs)


@pytest.mark.unit
def test_each_part_has_an_encoder_of_its_kind():
    parts = {"inner_depth": {"conv_filters": [[4, 3, 2]]}, "camera": {"impala_dense": 5}}
    module = module_of(ROBOT, parts=parts)
    encoders = module.pi_encoder.parts
    assert [type(x).__name__ for x in encoders.values()] == [
        "TorchCNNEncoder", "ImpalaEncoder", "TorchMLPEncoder",
    ]  # fmt: skip
    samples = [ROBOT.sample() for _ in range(3)]
    features = forward(module, samples)[Columns.EMBEDDINGS]
    camera = torch.from_numpy(np.stack([x["camera"] for x in samples]))
    depth = torch.from_numpy(np.stack([x["inner"]["depth"] for x in samples]))
    of_depth = encoders["inner_depth"]({Columns.OBS: depth})["encoder_out"]
    of_camera = encoders["camera"]({Columns.OBS: camera})["encoder_out"]
    assert of_camera.shape == (3, 5)
    torch.testing.assert_close(features[:, : of_depth.shape[1]], of_depth)
    torch.testing.assert_close(features[:, of_depth.shape[1] :][:, :5], of_camera)
    loss = forward(module, samples)[Columns.VF_PREDS].sum()
    loss.backward()
    for name, encoder in module.vf_encoder.parts.items():
        assert all(p.grad is not None for p in encoder.parameters()), name


@pytest.mark.unit
def test_a_part_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"names 'camra', .* did you mean 'camera'"):
        module_of(ROBOT, parts={"camra": {}})
    parts = {"camera": {"impala_channel": (4,)}}
    with pytest.raises(ValueError, match="no entry 'impala_channel'; did you mean 'impala_chann"):
        check_model_config({"parts": parts})


# -- Action masks ------------------------------------------------------------------------------


def masked_module(act, n):
    space = spaces.Dict({
        "observations": spaces.Box(-1, 1, (2,)),
        "action_mask": spaces.MultiBinary(n),
    })  # fmt: skip
    return space, module_of(space, act)


@pytest.mark.unit
def test_forbidden_actions_have_no_part_in_any_term():
    space, module = masked_module(spaces.Discrete(4), 4)
    samples = [space.sample() for _ in range(6)]
    masks = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]] + 2 * [[0, 1, 1, 1]])
    free = [{**x, "action_mask": np.ones(4, np.int8)} for x in samples]
    masked = [{**x, "action_mask": m} for x, m in zip(samples, masks, strict=True)]
    logits = forward(module, free)[Columns.ACTION_DIST_INPUTS].detach().double().numpy()
    inputs = forward(module, masked)[Columns.ACTION_DIST_INPUTS]
    inputs.retain_grad()
    cls = module.get_train_action_dist_cls()
    pi, other = cls.from_logits(inputs), cls.from_logits(inputs.detach() * 2.0)
    p = np.exp(logits) * masks
    p /= p.sum(1, keepdims=True)
    q = np.exp(2 * logits) * masks
    q /= q.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(p * np.log(p), axis=1)
        kl = np.nansum(p * (np.log(p) - np.log(q)), axis=1)
    np.testing.assert_allclose(pi.entropy().detach(), entropy, atol=1e-6)
    np.testing.assert_allclose(pi.kl(other).detach(), kl, atol=1e-6)
    allowed = torch.from_numpy(masks.argmax(1))
    np.testing.assert_allclose(
        pi.logp(allowed).detach(), np.log(p[np.arange(6), allowed]), atol=1e-6
    )
    (pi.logp(allowed) + pi.entropy() + pi.kl(other)).sum().backward()
    assert (inputs.grad.numpy()[masks == 0] == 0).all()
    assert np.isfinite(inputs.grad.numpy()).all()


@pytest.mark.unit
def test_a_mask_of_all_parts_of_an_action():
    space, module = masked_module(spaces.MultiDiscrete([2, 3]), 5)
    sample = {**space.sample(), "action_mask": np.array([0, 1, 1, 0, 1], np.int8)}
    inputs = forward(module, [sample] * 500)[Columns.ACTION_DIST_INPUTS]
    drawn = module.get_train_action_dist_cls().from_logits(inputs).sample()
    assert {*map(tuple, drawn.tolist())} == {(1, 0), (1, 2)}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("mask", "act", "error"),
    [
        (spaces.MultiBinary(3), spaces.Discrete(4), r"is MultiBinary\(4\) or Box"),
        (spaces.Box(0, 2, (4,), np.int8), spaces.Discrete(4), r"is MultiBinary\(4\) or Box"),
        (spaces.MultiBinary(4), spaces.Box(-1, 1, (4,)), "for Discrete and MultiDiscrete"),
        (
            spaces.MultiBinary(4),
            spaces.Tuple([spaces.Discrete(4)]),
            "for Discrete and MultiDiscrete",
        ),
    ],
)
def test_masks_that_do_not_fit(mask, act, error):
    space = spaces.Dict({"observations": spaces.Box(-1, 1, (2,)), "action_mask": mask})
    config = PPGConfig().environment(
        AnySpaces, env_config={"observation_space": space, "action_space": act}
    )
    with pytest.raises(ValueError, match=error):
        config.validate()


class Forbids(Masked):
    """From the third step on, its mask is what `mask` says."""

    def __init__(self, config=None):
        super().__init__()
        self._value = config["mask"]

    def _observe(self):
        obs = super()._observe()
        if self._t >= 2:
            obs["action_mask"] = np.full(5, self._value, np.int8)
        return obs


@pytest.mark.unit
@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"action_mask": spaces.MultiBinary(4), "a": CAMERA, "b": CAMERA}),
        spaces.Dict({"inner": spaces.Dict({"action_mask": spaces.MultiBinary(4)})}),
    ],
)
def test_masks_are_where_the_convention_has_them(space):
    config = PPGConfig().environment(AnySpaces, env_config={"observation_space": space})
    with pytest.raises(ValueError, match="is a Dict of it and 'observations', and nothing else"):
        config.validate()


class FinalMask(Masked):
    """Episodes end with a mask that forbids all, as games do."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if terminated:
            obs["action_mask"] = np.zeros_like(obs["action_mask"])
        return obs, reward, terminated, truncated, info


def config_of(env, model_config=SMALL, **env_config):
    return (
        PPGConfig()
        .environment(env, env_config=env_config)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8, rollout_fragment_length=32)
        .rl_module(model_config=model_config)
        .training(n_pi=2, e_aux=2, segment_length=1, num_minibatches=4, num_aux_minibatches=4)
        .debugging(seed=0)
    )


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (0, "the action_mask of env 0 forbids all actions at step 2"),
        (2, "numbers than 0 and 1: env 0 of env runner 0 .* step 1 of"),
    ],
)
def test_masks_that_allow_nothing_or_are_none(build, mask, error):
    algo = build(config_of(Forbids, mask=mask))
    with pytest.raises((ValueError, RuntimeError), match=error):
        algo.train()


def test_a_mask_of_the_last_state_may_forbid_all(build):
    build(config_of(FinalMask)).train()


class NextStep(VectorEnv):
    """Episodes of three steps in NEXT_STEP mode; a state that ends one has a mask of zeros.

    With `everywhere`, all states have.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, config):
        self.num_envs, self._everywhere = config["num_envs"], config.get("everywhere", False)
        self.single_observation_space = spaces.Dict({
            "observations": spaces.Box(-1, 1, (2,)),
            "action_mask": spaces.MultiBinary(3),
        })  # fmt: skip
        self.single_action_space = spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _observe(self):
        forbids = (self._t == 3) | self._everywhere
        masks = np.where(forbids[:, None], 0, [[0, 1, 1]]).astype(np.int8)
        return {"observations": np.zeros((self.num_envs, 2), np.float32), "action_mask": masks}

    def reset(self, *, seed=None, options=None):
        self._t = np.arange(self.num_envs) % 3
        return self._observe(), {}

    def step(self, actions):
        assert (actions[self._t < 3] > 0).all()
        self._t = np.where(self._t == 3, 0, self._t + 1)
        nothing = np.zeros(self.num_envs, bool)
        return self._observe(), np.ones(self.num_envs), self._t == 3, nothing, {}


def test_nobody_acts_on_the_state_that_ends_an_episode(build):
    config = config_of(NextStep).env_runners(observation_filter="MeanStdFilter")
    build(config).train()
    algo = build(config_of(NextStep, everywhere=True))
    with pytest.raises((ValueError, RuntimeError), match="of env 0 forbids all actions at step 0"):
        algo.train()


@pytest.mark.parametrize(
    "env_config",
    [
        pytest.param({}, id="vector"),
        pytest.param(
            {"action_space": spaces.MultiDiscrete([2, 4]), "key": "observation"},
            id="PettingZoo's",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"action_space": spaces.Discrete(5, start=3), "image": True},
            id="image",
            marks=pytest.mark.long,
        ),
    ],
)
def test_forbidden_actions_are_never_taken(build, env_config, tmp_path):
    """The env raises if one is: in the filter's warm-up, in training, in the evaluation."""
    config = config_of(Masked, **env_config).evaluation(
        evaluation_interval=2, evaluation_duration=8
    )
    config.env_runners(num_envs_per_env_runner=16, rollout_fragment_length=64)
    is_vector = not env_config.get("image")
    if is_vector:
        config.env_runners(observation_filter="MeanStdFilter")
    config.training(e_pi=4, e_v=4, lr=3e-3, gamma=0.5)
    algo = build(config)
    for _ in range(10 if is_vector else 2):
        result = algo.train()
    if is_vector:  # it learns what pays among what is allowed
        assert result["evaluation"]["env_runners"]["episode_return_mean"] > 9.0  # of 10
    policy = load_policy(algo.save_to_path(str(tmp_path)))
    env = Masked(env_config)
    obs, _ = env.reset(seed=0)
    for t in range(30):
        action, _ = policy.predict(obs, deterministic=bool(t % 2))
        obs, _, terminated, _, _ = env.step(action)
        if terminated:
            obs, _ = env.reset()
    only = np.zeros(obs["action_mask"].shape)
    only[[0, 3]] = 1  # 0 or 3 of five, or 0 and 1 of two and four
    beside = next(part for key, part in obs.items() if key != "action_mask")
    for given in (obs, beside):
        action, _ = policy.predict(given, action_masks=only)
        counted = np.atleast_1d(action - env.action_space.start).tolist()
        assert counted in ([0], [3], [0, 1])
    with pytest.raises(ValueError, match="forbids all actions"):
        policy.predict(obs, action_masks=np.zeros_like(only))
    player = make_player(policy, policy.config_with(), num_envs=2, seed=0, explore=True)
    player.step()
    player._obs[:] = policy._packing.pack({**obs, "action_mask": np.zeros_like(only)}, 1)
    with pytest.raises(ValueError, match="forbids all actions"):
        player.step()
    player.close()
    assert onnx.compare(onnx.to_onnx(policy), policy).is_rounding


@pytest.mark.long
def test_a_million_steps_without_a_forbidden_action(build):
    config = config_of(Masked).env_runners(num_envs_per_env_runner=64, rollout_fragment_length=250)
    algo = build(config.training(n_pi=0, lr=3e-3))
    for _ in range(63):
        result = algo.train()
    assert result["num_env_steps_sampled_lifetime"] > 1e6


# -- A whole run -------------------------------------------------------------------------------


class Robot(gym.Env):
    """Observations of ROBOT that follow from a number."""

    observation_space, action_space = ROBOT, spaces.Discrete(4)

    def __init__(self, config=None):
        self.k = 0

    def _observe(self):
        self.k += 1
        ROBOT.seed(self.k)
        return ROBOT.sample()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.k = int(self.np_random.integers(1000))
        return self._observe(), {}

    def step(self, action):
        return self._observe(), float(action), self.k % 7 == 0, False, {}

    def get_env_state(self):
        return {"k": self.k}

    def set_env_state(self, state):
        self.k = state["k"]


def test_a_run_with_parts_resumes_exactly_and_stores_no_more_than_they_take(build, tmp_path):
    def config():
        return config_of(Robot).training(replay_compression="lz4")

    algo = build(config())
    algo.train()
    path = algo.save_to_path(str(tmp_path / "one"))
    expected = timeless(algo.train())
    other = build(config())
    other.restore_from_path(path)
    check_same(timeless(other.train()), expected, "resumed: ")
    per_state = build(config().training(replay_compression=None)).train()["ppg"]["replay_bytes"]
    assert per_state / 256 < 12 * 16 * 3 + 8 * 10 * 4 + 4 * 17 + 3 * 8 + 5 + 1
    policy = load_policy(path)
    samples = [ROBOT.sample() for _ in range(3)]
    actions, _ = policy.predict(as_batch(samples), deterministic=True)
    single = [policy.predict(x, deterministic=True)[0] for x in samples]
    np.testing.assert_array_equal(actions, single)


class Halves(PPGCatalog):
    """A user's catalog, which is asked for each part."""

    @classmethod
    def _get_encoder_config(cls, observation_space, model_config_dict, action_space=None):
        half = {**model_config_dict, "impala_dense": 4, "fcnet_hiddens": [4]}
        return super()._get_encoder_config(observation_space, half, action_space)


def test_parts_in_processes_with_a_filter_in_bfloat16_and_a_users_catalog(build, tmp_path):
    config = config_of(AnySpaces, observation_space=ROBOT, action_space=spaces.Discrete(2))
    config.env_runners(num_envs_per_env_runner=4, gym_env_vectorize_mode="async")
    config.env_runners(observation_filter="MeanStdFilter")
    config.training(policy_precision="bfloat16", aux_precision="bfloat16")
    config.rl_module(rl_module_spec=RLModuleSpec(catalog_class=Halves, model_config=SMALL))
    algo = build(config)
    for _ in range(2):
        algo.train()
    module = algo.get_module()
    assert module.catalog.latent_dims == (3 * 4,)
    assert module.observation_filter.mean.abs().sum() > 0
    policy = load_policy(algo.save_to_path(str(tmp_path / "checkpoint")))
    player = make_player(policy, policy.config_with(), num_envs=2, seed=0, explore=True)
    assert [picture.shape for picture in player.pictures()] == [(12, 16, 3)] * 2  # the camera's
    player.close()


def test_purely_vector_dicts_are_flattened_as_before(build):
    space = spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Discrete(3)})
    algo = build(config_of(AnySpaces, observation_space=space))
    module = algo.get_module()
    assert module.observation_space.shape == (5,)
    assert module.observation_space.dtype == np.float32
