"""`search` of an experiment: which settings Optuna tries, how often, and what it maximises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ray.tune.search.sample import Categorical, Domain, Float, Integer, LogUniform

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiments.settings import (
    EPISODE_RETURN_MEAN,
    as_mapping,
    by_attribute,
    merge,
    reject_unknown,
)

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

_KEYS = ("optuna", "num_samples", "seed", "metric", "mode")
# Tune's names of what Optuna can draw from. Optuna has no steps on a logarithmic scale.
DISTRIBUTIONS = (
    "uniform", "quniform", "loguniform", "randint", "qrandint", "lograndint", "choice",
)  # fmt: skip
# What is searched if an experiment names nothing. The paper's values lie inside, and so do those
# that PPO usually gets on small vector tasks.
PPG_SPACE: Mapping[str, Mapping[str, list[Any]]] = {
    "n_pi": {"choice": [2, 4, 8, 16, 32]},
    "e_pi": {"choice": [1, 2, 4, 8]},
    "e_v": {"choice": [1, 2, 4, 8]},
    "e_aux": {"choice": [1, 3, 6, 9]},
    "num_minibatches": {"choice": [4, 8, 16, 32]},
    "num_aux_minibatches": {"choice": [4, 8, 16, 32]},
    "lr": {"loguniform": [1e-4, 3e-3]},
    "aux_lr": {"loguniform": [1e-4, 3e-3]},
    "beta_clone": {"loguniform": [0.1, 10]},
    "target_kl": {"choice": [None, "auto", 0.02, 0.05]},
    "clip_param": {"choice": [0.1, 0.2, 0.3]},
    "entropy_coeff": {"loguniform": [1e-4, 0.03]},
    "gamma": {"choice": [0.95, 0.99, 0.995, 0.999]},
    "lambda_": {"choice": [0.9, 0.95, 0.98]},
}


@dataclass(frozen=True)
class Search:
    """A hyperparameter search.

    Attributes:
        fixed: Settings that are the same in all trials.
        space: Tune's search spaces of the others, nested as in a config.
        num_samples: Number of trials.
        seed: Seed of the drawn settings; None: a random one.
        metric: Result that says how good a trial is; its last value counts.
        mode: "max" or "min".
    """

    fixed: Mapping[str, Any]
    space: Mapping[str, Any]
    num_samples: int
    seed: int | None
    metric: str
    mode: str


def parse_search(
    given: Mapping[str, Any],
    run: str,
    config: Mapping[str, Any],
    scheduler: TrialScheduler | None,
) -> Search:
    """Reads and checks an experiment's `search`.

    Args:
        given: What the experiment says.
        run: Name of the algorithm.
        config: Its settings; in a Python experiment some may be Tune's search spaces.
        scheduler: Its scheduler.

    Raises:
        ValueError: Something is wrong, or Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise ValueError("search needs Optuna: pip install 'rllib-ppg[search]'")
    reject_unknown(given, _KEYS, "search")
    if "optuna" not in given:
        raise ValueError(
            "search must name the settings to try, as in optuna: {n_pi: {choice: [8]}}"
        )
    metric = given.get("metric", EPISODE_RETURN_MEAN)
    if not isinstance(metric, str):
        raise ValueError(f"search.metric must be the name of a result, not {metric!r}")
    num_samples, seed = given.get("num_samples", 0), given.get("seed")
    if not _is_int(num_samples) or num_samples < 1:
        raise ValueError(
            f"search.num_samples must be the number of trials, 1 or more, not {num_samples!r}"
            if "num_samples" in given
            else "search must say how many trials to run, as in num_samples: 20"
        )
    if seed is not None and not (_is_int(seed) and 0 <= seed < 2**32):
        raise ValueError(f"search.seed must be an integer from 0 to 2**32 - 1, not {seed!r}")
    mode = given.get("mode", "max")
    if mode not in ("max", "min"):
        raise ValueError(f"search.mode must be 'max' or 'min', not {mode!r}")
    _check_scheduler(scheduler)
    fixed, in_config = _split(config)
    optuna = by_attribute(run, as_mapping(given["optuna"], "search.optuna"))
    space = merge(in_config, _space(optuna, run, fixed, not in_config))
    for path, domain in _leaves(space):
        _check_domain(domain, path.replace("/", "."))
    return Search(
        fixed=fixed,
        space=space,
        num_samples=num_samples,
        seed=seed,
        metric=metric,
        mode=mode,
    )


def _space(
    given: Mapping[str, Any], run: str, fixed: Mapping[str, Any], may_be_ours: bool
) -> dict[str, Any]:
    paths = {path for path, _ in _leaves(fixed)}
    if grid := next((path for path in paths if path.endswith("/grid_search")), None):
        setting = grid.removesuffix("/grid_search").replace("/", ".")
        raise ValueError(
            f"a search takes no grid_search, as {setting} has: give its values to search.optuna, "
            f"as in {{{setting}: {{choice: [...]}}}}"
        )
    if not given and may_be_ours:
        if run != "PPG":
            raise ValueError(f"search.optuna must name the settings of {run} to try")
        set_already = {_plain(name) for name in fixed}
        given = {
            name: space for name, space in PPG_SPACE.items() if _plain(name) not in set_already
        }
    for name in ("env", "seed"):
        if name in given:
            raise ValueError(
                f"search.optuna can't try values of {name}: returns on other envs or with other "
                "seeds say nothing about settings"
            )
    for path in sorted(_settings(given)):
        if any(_overlap(_plain(path), _plain(other)) for other in paths):
            raise ValueError(
                f"{path.replace('/', '.')} is set in config and searched in search.optuna: remove "
                "it from one of them"
            )
    return {name: parse_space(value, f"search.optuna.{name}") for name, value in given.items()}


def parse_space(value: Any, name: str) -> Any:
    """`{"choice": [1, 2]}` as one of Tune's search spaces, also inside of nested settings.

    Args:
        value: What is given.
        name: Its name, for the error.

    Raises:
        ValueError: It is no search space.
    """
    from ray import tune

    if isinstance(value, Domain):
        return value
    if isinstance(value, Mapping) and value:
        if bad := [key for key in value if not isinstance(key, str) or "/" in key]:
            raise ValueError(
                f"{name} has the key {bad[0]!r}: a search needs keys of text without /"
            )
        [kind, *others] = value
        arguments = value[kind]
        if isinstance(arguments, list) and not others:
            if kind not in DISTRIBUTIONS:
                raise ValueError(
                    f"{name} can't be drawn from {kind!r}, but from {', '.join(DISTRIBUTIONS)}"
                    f"{did_you_mean(str(kind), DISTRIBUTIONS)}"
                )
            try:
                return getattr(tune, kind)(*_arguments(kind, arguments))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: {kind} does not accept {arguments}: {error}") from error
        return {key: parse_space(part, f"{name}.{key}") for key, part in value.items()}
    raise ValueError(
        f"{name} must say what to draw from, as in {{loguniform: [1e-5, 1e-3]}} or "
        f"{{choice: [1, 2]}}, not {value!r}"
    )


def _arguments(kind: str, given: list[Any]) -> list[Any]:
    if kind == "choice":
        if not given:
            raise ValueError("there is nothing to choose from")
        return [given]
    expected = 3 if kind.startswith("q") else 2
    if len(given) != expected or any(isinstance(x, str | bool) for x in given):
        step = " and a step" if expected == 3 else ""
        raise ValueError(f"give two bounds{step}")
    return given


def _check_domain(domain: Domain, name: str) -> None:
    """Raises ValueError for a search space of Tune's that Optuna can't draw from."""
    from ray.tune.search.optuna import OptunaSearch

    if isinstance(domain, Categorical):
        return
    if not isinstance(domain, Float | Integer) or (_step(domain) and _is_logarithmic(domain)):
        raise ValueError(f"Optuna can't draw {name}: use {', '.join(DISTRIBUTIONS)}")
    try:
        OptunaSearch.convert_search_space({name: domain})
    except ValueError as error:
        raise ValueError(f"Optuna can't draw {name}: {error}") from error


def _step(domain: Domain) -> float | None:
    return getattr(domain.sampler, "q", None)


def _is_logarithmic(domain: Domain) -> bool:
    sampler = getattr(domain.sampler, "sampler", domain.sampler)  # without the step
    return isinstance(sampler, LogUniform)


def _check_scheduler(scheduler: TrialScheduler | None) -> None:
    from ray.tune import schedulers

    changing = (
        schedulers.PopulationBasedTraining,  # and PB2
        schedulers.PopulationBasedTrainingReplay,
        schedulers.HyperBandForBOHB,
        schedulers.ResourceChangingScheduler,
    )
    if isinstance(scheduler, changing):
        raise ValueError(
            f"{type(scheduler).__name__} does not work with a search: leave out search, or take "
            "the scheduler asha, hyperband or median"
        )


def in_words(domain: Domain) -> str:
    """What is drawn, as in "1e-05 to 0.001, on a logarithmic scale"."""
    if isinstance(domain, Categorical):
        return f"one of {', '.join(map(str, domain.categories))}"
    assert isinstance(domain, Float | Integer)
    step = _step(domain)
    # Tune leaves out the upper bound of integers, unless there is a step.
    last = domain.upper - 1 if isinstance(domain, Integer) and not step else domain.upper
    steps = f", in steps of {step}" if step else ""
    scale = ", on a logarithmic scale" if _is_logarithmic(domain) else ""
    return f"{domain.lower} to {last}{steps}{scale}"


def _split(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a config that have a value, and those that have a search space."""
    fixed, space = {}, {}
    for name, value in config.items():
        if isinstance(value, Domain):
            space[name] = value
        elif type(value) is dict:  # and no `gym.spaces.Dict`
            fixed[name], below = _split(value)
            if below:
                space[name] = below
        else:
            fixed[name] = value
    return fixed, space


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each setting that is no mapping, by its path, as in "env_config/num_levels"."""
    for name, value in config.items():
        if type(value) is dict:
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _plain(name: str) -> str:
    """The name without the underscore of `lambda_`, which a config may leave out."""
    return name.rstrip("_")


def _overlap(path: str, other: str) -> bool:
    return f"{path}/".startswith(f"{other}/") or f"{other}/".startswith(f"{path}/")


def _settings(space: Mapping[str, Any]) -> set[str]:
    """Paths of the settings in a space that is not parsed yet."""
    paths = (path for path, _ in _leaves(space))
    return {
        path.rpartition("/")[0] if path.rpartition("/")[2] in DISTRIBUTIONS else path
        for path in paths
    }


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
