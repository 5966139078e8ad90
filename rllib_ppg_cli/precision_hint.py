"""A line about `aux_precision` where the machine could train faster with another value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rllib_ppg.experiments.experiment import Experiment

if TYPE_CHECKING:
    import gymnasium as gym

    from rllib_ppg.config import PPGConfig


def show(experiment: Experiment) -> None:
    """Prints the line if it is of use for one of the experiment's trials."""
    from rllib_ppg.envs.module_spaces import module_spaces

    if experiment.run != "PPG":
        return
    for _, given in experiment.variants():
        config = experiment.algorithm.get_default_config().update_from_dict(given)
        spaces = next(iter(module_spaces(config).values()))
        text = hint(config, spaces.observations)
        if text:
            print(text, flush=True)
            return


def hint(config: PPGConfig, observation_space: gym.Space) -> str:
    """Returns what aux_precision="auto" would bring on this machine; "" if nothing."""
    from rllib_ppg.envs.spaces import num_pixels
    from rllib_ppg.learning.precision import has_native_bfloat16

    device = "cuda" if config.num_gpus_per_learner else "cpu"
    float32 = config.has_aux_phase and config.aux_precision == "float32"
    if not (num_pixels(observation_space) and float32 and has_native_bfloat16(device)):
        return ""
    return (
        'this machine computes in bfloat16 natively: aux_precision="auto" makes auxiliary phases '
        "faster (docs/performance.md#precision)"
    )
