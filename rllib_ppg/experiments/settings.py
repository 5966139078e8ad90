"""Settings as dicts: merged, named, compared, and turned into what a file can hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from rllib_ppg.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from ray.rllib.algorithms import AlgorithmConfig

# The result that says how good a policy is, by the name that Tune gives nested results.
EPISODE_RETURN_MEAN = "env_runners/episode_return_mean"
_WHOLE = ("aux_losses",)  # replaced, not merged: leaving out a loss must be possible
# Settings that RLlib's configs do not let you set by name, and their attributes.
ATTRIBUTES = {"model_config": "_model_config", "rl_module_spec": "_rl_module_spec"}


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merges settings key by key, nested dicts included; a grid search counts as one value."""
    merged = dict(old)
    for key, value in new.items():
        below = old.get(key)
        if key not in _WHOLE and _is_dict(below) and _is_dict(value):
            value = merge(below, value)
        merged[key] = value
    return merged


def _is_dict(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and "grid_search" not in value


def changed_settings(config: AlgorithmConfig) -> dict[str, Any]:
    """The settings of a config that differ from its algorithm's defaults.

    They have the names that users give them, so that other settings can be merged into them.
    """
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    defaults = vars(config.algo_class.get_default_config())
    names = {attribute: name for name, attribute in ATTRIBUTES.items()}
    names |= {f"_{name}": name for name in settable_properties(type(config))}
    changed = {
        names.get(name, name): value
        for name, value in vars(config).items()
        if name not in ("algo_class", "_is_frozen", "_env_file")
        and not (name in defaults and _is_equal(value, defaults[name]))
    }
    if isinstance(model_config := changed.get("model_config"), DefaultModelConfig):
        changed["model_config"] = _given_fields(model_config)
    return changed


def _given_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, RLlib's `DefaultModelConfig`, that differ from its defaults."""
    defaults = asdict(type(value)())
    return {name: x for name, x in asdict(value).items() if not _is_equal(x, defaults[name])}


def _is_equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (ValueError, TypeError, AttributeError):  # arrays, or RLlib's PolicySpec
        return False


def settable_properties(cls: type) -> set[str]:
    """Names of a class's properties that have a setter."""
    properties = {name: getattr(cls, name) for name in dir(cls)}
    return {n for n, p in properties.items() if isinstance(p, property) and p.fset}


def setting_of(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """A trial's setting, by the name that its user gave it."""
    return config.get(key, config.get(ATTRIBUTES.get(key, key), default))


def by_attribute(run: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names that the algorithm's config takes; PPG's takes all of them."""
    if run == "PPG":
        return dict(config)
    return {ATTRIBUTES.get(key, key): value for key, value in config.items()}


def is_budget(key: str) -> bool:
    """Whether a key of `stop` limits what a run may spend, rather than naming its goal."""
    name = key.split("/")[-1]
    return name.startswith(("num_", "time", "iterations_")) or name == "training_iteration"


def as_data(value: Any, not_data: list[str] | None = None, name: str = "") -> Any:
    """Converts a value to the types of YAML and JSON; anything else becomes text.

    Args:
        value: Any value.
        not_data: List to which the names of values that became text are appended.
        name: Name of the value.
    """
    if isinstance(value, Mapping):
        return {
            str(as_data(k)): as_data(v, not_data, f"{name}.{k}" if name else str(k))
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [as_data(v, not_data, name) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return as_data(asdict(value), not_data, name)
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):  # or of a class derived from it, which YAML does not write
            return kind(value.value if isinstance(value, Enum) else value)
    if not_data is not None:
        not_data.append(name)
    return str(value)


def as_mapping(value: Any, name: str) -> Mapping[str, Any]:
    """A value of an experiment file that must be a mapping; nothing stands for an empty one.

    Raises:
        ValueError: It is not a mapping.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping, not {value!r}")
    return value


def reject_code(value: Any, name: str) -> None:
    """Raises ValueError for `{"eval": TEXT}`, whose text Tune would run as Python.

    Args:
        value: A setting.
        name: Its name.
    """
    if isinstance(value, Mapping) and set(value) == {"eval"}:
        raise ValueError(
            f"{name} is a dict with the only key 'eval', and Tune would run its text as Python: "
            "give it another key"
        )
    for path, part in _parts(value, name):
        reject_code(part, path)


def check_grids(value: Any, name: str = "") -> None:
    """Raises ValueError for a `{"grid_search": ...}` without a list of values.

    Args:
        value: A setting, or a dict of settings.
        name: Its name.
    """
    if isinstance(value, Mapping) and set(value) == {"grid_search"}:
        values = value["grid_search"]
        is_list = isinstance(values, Collection) and not isinstance(values, str | Mapping)
        if not is_list or not len(values):
            raise ValueError(
                f"{name}.grid_search must be a list of values that is not empty, not {values!r}"
            )
    for path, part in _parts(value, name):
        check_grids(part, path)


def _parts(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The parts of a dict or a list, in which Tune looks for grids and code, by their names."""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    else:
        parts = enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in parts:
        yield f"{name}.{key}" if name else str(key), part


def reject_unknown(keys: Iterable[str], known: Collection[str], where: str) -> None:
    """Raises ValueError for the first key that is not known, with the nearest known one."""
    for key in keys:
        if key not in known:
            raise ValueError(f"{where} has no setting {key!r}{did_you_mean(str(key), known)}")


def absolute(path: str) -> str:
    """A path as Tune needs it: absolute, or a URI."""
    return path if "://" in path else str(Path(path).expanduser().absolute())
