"""The networks: sizes, initialisation, inputs, and which loss reaches which parameters."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from torch import nn

from rllib_ppg import PPGConfig
from rllib_ppg.learning import trained_module
from rllib_ppg.networks.impala_cnn import ImpalaCNN
from rllib_ppg.networks.rl_module import VF_AUX_PREDS, PPGTorchRLModule
from tests.support.envs import AnySpaces

pytestmark = pytest.mark.unit

IMAGE = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)


def make_module(arch="dual", obs=IMAGE, act=None, inference_only=False, **config):
    return PPGTorchRLModule(
        observation_space=obs,
        action_space=act or gym.spaces.Discrete(15),
        inference_only=inference_only,
        model_config={"arch": arch, **config},
    )


@pytest.mark.parametrize(
    ("arch", "parameters"), [("dual", 1_248_657), ("detach", 626_513), ("shared", 626_513)]
)
def test_parameter_count_is_the_papers(arch, parameters):
    assert sum(p.numel() for p in make_module(arch).parameters()) == parameters


def test_every_output_unit_starts_with_the_published_norm():
    torch.manual_seed(0)
    module = make_module()
    expected = {"pi": 0.1, "vf": 0.1, "vf_aux": 0.1, "dense": 1.4, "first": 1.0, "residual": 0.639}
    seen = set()
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        top = name.split(".")[0]
        kind = (
            "residual" if ".conv" in name
            else "dense" if name.endswith("dense")
            else "first" if isinstance(layer, nn.Conv2d)
            else top
        )  # fmt: skip
        seen.add(kind)
        norms = layer.weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(
            norms, torch.full_like(norms, expected[kind]), rtol=1e-3, atol=0, msg=name
        )
        assert not layer.bias.any()
    assert seen == set(expected)


@pytest.mark.parametrize("conv_filters", [None, [[4, 3, 2]]])
@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, np.uint8),
        (0, 255, np.int32),
        (0, 255, np.uint16),
        (0, 255, np.float32),
        (0, 1, np.uint8),
        (0, 1, np.float32),
        (-1, 1, np.float64),
        (-100, 155, np.int16),
    ],
)
def test_images_of_any_type_are_scaled_by_their_bounds(low, high, dtype, conv_filters):
    """The same picture gives the same features, whatever its type."""
    config = {"conv_filters": conv_filters} if conv_filters else {}
    picture = np.random.default_rng(0).integers(0, 2, (2, 16, 16, 3))  # black and white

    def outputs(low, high, dtype):
        torch.manual_seed(0)
        space = gym.spaces.Box(low, high, picture.shape[1:], dtype)
        module = make_module(obs=space, **config)
        images = torch.from_numpy((low + (high - low) * picture).astype(dtype))
        return module.forward_train({Columns.OBS: images})

    got, expected = outputs(low, high, dtype), outputs(0, 1, np.float32)
    for name, x in expected.items():
        torch.testing.assert_close(got[name], x)


@pytest.mark.parametrize(
    ("space", "error"),
    [
        (gym.spaces.Box(-np.inf, np.inf, (8, 8, 3)), "bounds of their space, which are -inf and"),
        (gym.spaces.Box(0, 255, (3, 64, 64), np.uint8), r"channels first.*to \(64, 64, 3\)"),
        (gym.spaces.Box(0, 255, (4, 84, 84), np.uint8), r"channels first.*to \(84, 84, 4\)"),
    ],
)
def test_what_is_no_image_is_refused(space, error):
    config = PPGConfig().environment(AnySpaces, env_config={"observation_space": space})
    with pytest.raises(ValueError, match=error):
        config.validate()


def test_images_are_height_width_channels():
    """The first convolution sees the env's channels: a change in one moves what a copy predicts."""
    torch.manual_seed(0)
    net = ImpalaCNN((8, 12, 2), channels=(4,), dense=5, bounds=(0.0, 1.0))
    conv = net.stacks[0][0]
    x = torch.rand(1, 8, 12, 2)
    expected = nn.functional.conv2d(x.movedim(-1, 1).contiguous(), conv.weight, padding=1)
    seen = {}
    conv.register_forward_hook(lambda m, i, out: seen.update(out=out))
    assert net(x).shape == (1, 5)
    torch.testing.assert_close(seen["out"], expected)


@pytest.mark.parametrize("shape", [(64, 64, 3), (84, 84, 4), (10, 10, 6), (21, 13, 1)])
def test_any_image_size(shape):
    module = make_module(obs=gym.spaces.Box(0, 255, shape, np.uint8))
    out = module.forward_train({Columns.OBS: torch.zeros(2, *shape, dtype=torch.uint8)})
    assert out[Columns.ACTION_DIST_INPUTS].shape == (2, 15)
    assert out[Columns.VF_PREDS].shape == out[VF_AUX_PREDS].shape == (2,)


def test_model_config_reaches_the_network():
    small = make_module(impala_channels=(4, 8), impala_dense=7)
    assert small.pi_encoder.net.dense.out_features == 7
    assert [s[0].out_channels for s in small.pi_encoder.net.stacks] == [4, 8]
    mlp = make_module(obs=gym.spaces.Box(-1, 1, (3,)), fcnet_hiddens=[5, 6])
    assert [m.out_features for m in mlp.pi_encoder.modules() if isinstance(m, nn.Linear)] == [5, 6]
    rllib_cnn = make_module(conv_filters=[[8, 8, 8], [8, 8, 1]])
    assert rllib_cnn.forward_train({Columns.OBS: torch.zeros(1, 64, 64, 3, dtype=torch.uint8)})


@pytest.mark.parametrize("arch", ["dual", "detach", "shared"])
def test_env_runners_hold_the_policy_network_only(arch):
    names = {n.split(".")[0] for n, _ in make_module(arch, inference_only=True).named_parameters()}
    assert names == {"pi_encoder", "pi"}


def parts(module, loss):
    """The top-level parts of the module that `loss` has a non-zero gradient in."""
    module.zero_grad(set_to_none=True)
    loss.backward()
    return {n.split(".")[0] for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("arch", "value_parts"),
    [
        ("dual", {"vf_encoder", "vf"}),
        ("detach", {"vf"}),
        ("shared", {"pi_encoder", "vf"}),
    ],
)
def test_what_each_output_trains(arch, value_parts):
    module = make_module(arch, obs=gym.spaces.Box(-1, 1, (3,)))
    batch = {Columns.OBS: torch.rand(4, 3)}

    def out(name, **kwargs):
        return module.forward_train(batch, outputs=(name,), **kwargs)[name].sum()

    assert parts(module, out(Columns.ACTION_DIST_INPUTS)) == {"pi_encoder", "pi"}
    assert parts(module, out(VF_AUX_PREDS)) == {"pi_encoder", "vf_aux"}
    assert parts(module, out(Columns.VF_PREDS)) == value_parts
    assert parts(module, out(Columns.VF_PREDS, aux_phase=True)) == value_parts


def test_detach_can_let_the_value_gradient_in_in_the_auxiliary_phase():
    obs = gym.spaces.Box(-1, 1, (3,))
    module = make_module("detach", obs=obs, detach_vf_in_aux_phase=False)
    batch = {Columns.OBS: torch.rand(4, 3)}
    for aux_phase, expected in ((False, {"vf"}), (True, {"vf", "pi_encoder"})):
        out = module.forward_train(batch, outputs=(Columns.VF_PREDS,), aux_phase=aux_phase)
        assert parts(module, out[Columns.VF_PREDS].sum()) == expected


def test_one_call_gives_the_same_outputs_as_single_ones():
    for arch in ("dual", "detach", "shared"):
        module = make_module(arch, obs=gym.spaces.Box(-1, 1, (3,)))
        batch = {Columns.OBS: torch.rand(4, 3)}
        together = module.forward_train(batch)
        for name, value in together.items():
            torch.testing.assert_close(module.forward_train(batch, outputs=(name,))[name], value)
        torch.testing.assert_close(module.compute_values(batch), together[Columns.VF_PREDS])


def test_what_a_gpus_micro_batch_keeps_is_less_than_half_of_8_gb():
    module, kept = make_module("dual"), {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held: memory that is freed would be counted again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module.forward_train({Columns.OBS: torch.zeros(8, 64, 64, 3, dtype=torch.uint8)})
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    a_frame = sum(s.nbytes() for key, s in kept.items() if key not in weights) / 8
    assert a_frame > 64 * 64 * 16 * 4  # at the least, what the first layer gives its pooling
    assert a_frame * trained_module._GPU_PIXELS / (64 * 64) < 4e9
