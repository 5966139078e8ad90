"""Augmentation: what it does to images, and how the auxiliary phase uses it."""

import colorsys

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_ppg import PPGConfig
from rllib_ppg.augmentation import (
    AUGMENTATIONS,
    color_jitter,
    cutout,
    random_crop,
    random_translate,
)
from tests.support.learners import (
    IMAGES,
    N,
    SGDLearner,
    T,
    aux_phase,
    inverted,
    make_learner,
    make_rollout,
    parameters,
    phases,
    policy_phase,
)


def images_and_numbers(count=20, size=64):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return images, torch.rand(count, 4, generator=generator)


# -- Images ------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize(
    ("augment", "most", "mode"), [(random_translate, 8, "constant"), (random_crop, 12, "edge")]
)
def test_moves(augment, most, mode):
    images, u = images_and_numbers()
    moves = set()
    for image, numbers, out in zip(images.numpy(), u.numpy(), augment(images, u), strict=True):
        padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode=mode)
        top, left = (int(x * (2 * most + 1)) for x in numbers[:2])
        np.testing.assert_array_equal(out, padded[top : top + 64, left : left + 64])
        moves.add((top, left))
    assert len(moves) > 10


@pytest.mark.unit
def test_cutout():
    images, u = images_and_numbers(200)
    images = images.clamp(min=1)
    out = cutout(images, u)
    sizes = set()
    for before, after in zip(images.numpy(), out.numpy(), strict=True):
        black = (after == 0).all(-1)
        rows, columns = (np.flatnonzero(black.any(axis)) for axis in (1, 0))
        assert black.sum() == len(rows) * len(columns)  # a rectangle
        np.testing.assert_array_equal(after[~black], before[~black])
        sizes |= {len(rows), len(columns)}
    assert sizes == set(range(7, 22))


@pytest.mark.unit
def test_color_jitter():
    images, u = images_and_numbers()
    for image, numbers, out in zip(images.numpy(), u.numpy(), color_jitter(images, u), strict=True):
        brightness, contrast, saturation = 0.6 + 0.8 * numbers[:3]
        weights = np.array([0.299, 0.587, 0.114])
        x = np.clip(image * brightness, 0, 255)
        x = np.clip((x @ weights).mean() * (1 - contrast) + contrast * x, 0, 255)
        grey = (x @ weights)[..., None]
        x = np.clip(grey * (1 - saturation) + saturation * x, 0, 255)
        for pixel, got in zip(
            x[::8, ::8].reshape(-1, 3), out[::8, ::8].reshape(-1, 3), strict=True
        ):
            hue, s, v = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb((hue + (numbers[3] - 0.5) * 255 / 360) % 1, s, v)
            assert np.abs(got.numpy() - expected).max() <= 0.51  # rounded to whole numbers


@pytest.mark.unit
def test_color_jitter_of_grey_frames():
    """Four of them, stacked as Atari's are."""
    images, u = images_and_numbers()
    grey = images[..., :1].repeat(1, 1, 1, 4)
    out = color_jitter(grey, u)
    assert torch.equal(out, out[..., :1].repeat(1, 1, 1, 4))
    stacked = color_jitter(images.repeat(1, 1, 1, 2), u)
    assert stacked.shape[-1] == 6


@pytest.mark.unit
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_image_does_not_depend_on_the_others(name):
    images, u = images_and_numbers(size=16)
    before = images.clone()
    out = AUGMENTATIONS[name](images, u)
    assert torch.equal(images, before)
    assert out.dtype == torch.uint8
    assert out.shape == images.shape
    assert torch.equal(AUGMENTATIONS[name](images[3:4], u[3:4]), out[3:4])


# -- In the auxiliary phase --------------------------------------------------------------------


def learner_of(*args, **training):
    return make_learner(*args, obs=IMAGES, e_aux=1, **training)


def test_losses_see_the_augmented_image_and_targets_are_of_the_clean_one():
    learner, rollout = learner_of(SGDLearner, augmentation=inverted), make_rollout(obs=IMAGES)
    _, (info,), (block,) = policy_phase(learner, rollout)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    with torch.no_grad():
        clean, other = (
            module.forward_train({"obs": torch.from_numpy(obs[rollout.valid])})
            for obs in (rollout.obs, 255 - rollout.obs)
        )
    (metrics,) = aux_phase(learner, [(info, block)])
    V_targ = torch.from_numpy(block.columns["V_targ"][rollout.valid])
    log_p, log_q = (out["action_dist_inputs"].log_softmax(1) for out in (clean, other))
    kl = (log_p.exp() * (log_p - log_q)).sum(1).mean().item()
    assert kl > 0
    assert metrics["aux/clone_kl"] == pytest.approx(kl, rel=1e-3)
    for name, V in (("vf_aux_loss", other["vf_aux_preds"]), ("vf_loss", other["vf_preds"])):
        expected = 0.5 * (V - V_targ).square().mean().item()
        assert metrics[f"aux/{name}"] == pytest.approx(expected, rel=1e-4)


def test_consistency():
    losses = {"value": 1.0, "augmentation_consistency": 0.1}
    learner = learner_of(SGDLearner, augmentation=inverted, aux_losses=losses)
    rollout = make_rollout(obs=IMAGES)
    _, (info,), (block,) = policy_phase(learner, rollout)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    with torch.no_grad():
        clean, other = (
            module.forward_train({"obs": torch.from_numpy(obs[rollout.valid])})
            for obs in (rollout.obs, 255 - rollout.obs)
        )
    (metrics,) = aux_phase(learner, [(info, block)])
    log_p, log_q = (out["action_dist_inputs"].log_softmax(1) for out in (clean, other))
    kl = (log_p.exp() * (log_p - log_q)).sum(1)
    expected = (kl + (clean["vf_preds"] - other["vf_preds"]) ** 2).mean().item()
    assert metrics["aux/augmentation_consistency_loss"] == pytest.approx(expected, rel=1e-3)
    assert metrics["aux/clone_kl"] < 1e-9  # of the clean images


def test_targets_of_the_consistency_are_not_trained():
    """With the gradient of the augmented pass alone, and none of the clean one."""
    losses = {"augmentation_consistency": 1.0}
    learner = learner_of(
        SGDLearner, augmentation=inverted, aux_losses=losses, beta_clone=0.0, vf_true_weight=0.0
    )
    rollout = make_rollout(obs=IMAGES)
    _, (info,), (block,) = policy_phase(learner, rollout)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    obs = torch.from_numpy(rollout.obs[rollout.valid])
    with torch.no_grad():
        clean = module.forward_train({"obs": obs})
    other = module.forward_train({"obs": 255 - obs})
    log_p, log_q = (out["action_dist_inputs"].log_softmax(1) for out in (clean, other))
    loss = ((log_p.exp() * (log_p - log_q)).sum(1)).mean()
    loss = loss + (clean["vf_preds"] - other["vf_preds"]).square().mean()
    before = parameters(learner)
    grads = torch.autograd.grad(loss, [*module.parameters()], allow_unused=True)
    aux_phase(learner, [(info, block)])
    for (name, p), grad in zip(module.named_parameters(), grads, strict=True):
        expected = before[name] - (0 if grad is None else grad)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("losses", [{"value": 1.0}, {"value": 1.0, "dynamics": {"hidden": 8}}])
def test_micro_batches_do_not_change_the_result(losses):
    kwargs = {"double": True, "augmentation": "random_translate", "aux_losses": losses}
    rollout = make_rollout(obs=IMAGES)
    expected, _, _ = phases(learner_of(SGDLearner, **kwargs), rollout)
    got, _, _ = phases(learner_of(SGDLearner, **kwargs, micro_batch_size=5), rollout)
    for name, p in expected.items():
        torch.testing.assert_close(got[name], p, rtol=1e-9, atol=1e-12, msg=name)


def test_a_state_has_numbers_of_its_own_in_each_epoch():
    seen = []

    def watch(images, u):
        seen.append(u.clone())
        return images

    learner = make_learner(obs=IMAGES, e_aux=2, augmentation=watch)
    rollout = make_rollout(obs=IMAGES)
    rollout.valid[:] = True
    _, (info,), (block,) = policy_phase(learner, rollout)
    aux_phase(learner, [(info, block)])
    first, second = (u.numpy() for u in seen if len(u) == N * T)
    numbers = np.concatenate([first, second])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert len(np.unique(numbers)) == numbers.size


def test_an_own_function_may_write_to_its_images():
    learner = learner_of(augmentation=lambda images, u: images.zero_())
    _, (info,), (block,) = policy_phase(learner, make_rollout(obs=IMAGES))
    before = block.obs.copy()
    aux_phase(learner, [(info, block)])
    np.testing.assert_array_equal(block.obs, before)


def test_an_own_function_returns_images():
    error = r"augmentation returns torch.float32 \[1, 16, 16, 3\] for torch.uint8"
    with pytest.raises(ValueError, match=error):
        learner_of(augmentation=lambda images, u: images.float())


# -- The setting -------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize(
    ("env", "training", "error"),
    [
        ("CartPole-v1", {"augmentation": "cutout"}, "augmentation changes uint8 images"),
        ("CartPole-v1", {"augmentation": "cutot"}, "did you mean 'cutout'"),
        ("CartPole-v1", {"augmentation": 3}, "augmentation is None, a function, or one of"),
        (
            "CartPole-v1",
            {"aux_losses": {"augmentation_consistency": 0.1}},
            r"aux_losses\['augmentation_consistency'\] needs an augmentation",
        ),
    ],
)
def test_wrong_settings(env, training, error):
    with pytest.raises(ValueError, match=error):
        PPGConfig().environment(env).training(**training).validate()
