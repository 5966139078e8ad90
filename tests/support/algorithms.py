"""Small algorithms, and what tests read of them."""

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_ppg import PPGConfig
from rllib_ppg.learner import PPGTorchLearner
from tests.support.envs import AnySpaces
from tests.support.learners import T


def small(env="CartPole-v1", runners=1, **training):
    settings = {"n_pi": 2, "e_aux": 2, "num_minibatches": 2, "num_aux_minibatches": 2}
    return (
        PPGConfig()
        .environment(env)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=4, rollout_fragment_length=16)
        .rl_module(model_config={"fcnet_hiddens": [16, 16]})
        .training(**settings | training)
        .debugging(seed=3)
    )


def several(num_learners, runners=0, envs=6, learner=None, **training):
    settings = {"n_pi": 2, "e_aux": 2, "num_minibatches": 3, "num_aux_minibatches": 2}
    config = (
        PPGConfig()
        .environment(AnySpaces)
        .env_runners(num_envs_per_env_runner=envs, rollout_fragment_length=T)
        .env_runners(num_env_runners=runners)
        .learners(num_learners=num_learners)
        .rl_module(model_config={"fcnet_hiddens": [16, 16]})
        .training(learner_class=learner or PPGTorchLearner, **settings | training)
        .debugging(seed=3)
    )
    return config


def only_module(algo):
    """The driver's state of the one module: replay list, reward scale, observation statistics."""
    (module,) = algo.modules.values()
    return module


def learner_metrics(result):
    return result["learners"][DEFAULT_MODULE_ID]


def weights(algo, parts=("pi_encoder", "pi", "vf_encoder", "vf", "vf_aux")):
    state = algo.learner_group.get_weights()[DEFAULT_MODULE_ID]
    return {k: np.array(v) for k, v in state.items() if k.split(".")[0] in parts}


def learner_states(algo):
    state = algo.learner_group.get_state()["learner"]
    weights = {k: np.array(v) for k, v in state["rl_module"][DEFAULT_MODULE_ID].items()}
    # Adam's first moment is a weighted sum of all gradients so far.
    gradients = {
        name: [np.array(s["exp_avg"]) for s in optimizer["state"]["state"].values()]
        for name, optimizer in state["optimizer"].items()
        if "default_policy" in name
    }
    return weights, gradients
