"""What population-based training may change: `hyperparam_mutations` of the scheduler pbt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.search.sample import Domain

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiments.search import DISTRIBUTIONS, parse_space
from rllib_ppg.experiments.settings import as_mapping

MUTATIONS = "hyperparam_mutations"
_ARGUMENTS = (MUTATIONS, "hyperparam_bounds")  # the latter is PB2's


def parse_mutations(scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a scheduler, with mutations as Tune takes them.

    A space has the form of a search, as in `{"loguniform": [1e-5, 1e-3]}`. A list stays one, whose
    neighbours PBT tries; `choice` is the same list, since PBT would multiply what it chose.

    Raises:
        ValueError: A space can't be read.
    """
    if MUTATIONS not in scheduler_config:
        return dict(scheduler_config)
    given = as_mapping(scheduler_config[MUTATIONS], MUTATIONS)
    parsed = {name: _parsed(value, f"{MUTATIONS}.{name}") for name, value in given.items()}
    return {**scheduler_config, MUTATIONS: parsed}


def changed_once(scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a scheduler changes, each with a value that it may get."""
    parsed = parse_mutations(scheduler_config)
    return {
        name: _value(space)
        for argument in _ARGUMENTS
        for name, space in as_mapping(parsed.get(argument), argument).items()
    }


def _parsed(value: Any, name: str) -> Any:
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"{name} is an empty list: there is nothing to choose from")
        return value
    if callable(value):
        return value
    if isinstance(value, Mapping) and value:
        if set(value) == {"choice"} and isinstance(value["choice"], list):
            return _parsed(value["choice"], name)
        if not any(did_you_mean(str(key), DISTRIBUTIONS) for key in value):
            return {key: _parsed(part, f"{name}.{key}") for key, part in value.items()}
    return parse_space(value, name)


def _value(space: Any) -> Any:
    if isinstance(space, Domain):
        return space.sample(random_state=0)
    if isinstance(space, Mapping):
        return {key: _value(part) for key, part in space.items()}
    return space() if callable(space) else space[0]
