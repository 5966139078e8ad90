"""`rllib train --dry-run`: what a run would do and what resources it needs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.search import Search, in_words
from rllib_ppg.experiments.settings import as_data, is_budget
from rllib_ppg_cli import observation_lines, precision_hint, schedule_hint

if TYPE_CHECKING:
    from rllib_ppg.config import PPGConfig

Line = tuple[str, str]
_WIDTH = 100
_DONE = "  done so far"
_PHASES = 15  # a run should have this many; docs/results/phase-length.md
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def show(experiment: Experiment, done: Iterable[int] = ()) -> bool:
    """Prints what the trials of an experiment would do and need; equal trials are shown once.

    Args:
        experiment: A valid experiment. Ray must be running, since the trials share its resources.
        done: Iterations that the trials have done already, in the order of the trials.

    Returns:
        Whether every trial fits.
    """
    _print(f"{experiment.run}: settings other than the defaults", _settings(experiment))
    if search := experiment.parsed_search:
        print()
        _print(_about(search), _space(search))
    fits = True
    alike: dict[str, list[str]] = {}
    samples = search.num_samples if search else experiment.num_samples
    trials = list(experiment.variants()) * samples  # in Tune's order
    looked_at: dict[tuple[str, int], tuple[list[Line], bool]] = {}
    for (label, config), iterations in zip(trials, chain(done, repeat(0)), strict=False):
        trial = (label, iterations)
        if trial not in looked_at:
            looked_at[trial] = _trial(experiment, config, len(trials), iterations)
        lines, trial_fits = looked_at[trial]
        fits &= trial_fits
        alike.setdefault("\n".join(_aligned(lines)), []).append(label)
    for text, labels in alike.items():
        which = f": {'; '.join(dict.fromkeys(labels))}" if any(labels) else ""
        print("\n".join(["", *_wrapped(f"{_count(len(labels), 'trial')}{which}"), text]))
    return fits


def _settings(experiment: Experiment) -> list[Line]:
    defaults = experiment.algorithm.get_default_config()
    lines = []
    search = experiment.parsed_search
    fixed = search.fixed if search else experiment.config
    for name, value in sorted(as_data(fixed).items()):
        default = defaults.get(name)
        if isinstance(value, Mapping) and "grid_search" not in value:
            lines += [(f"{name}.{key}", str(v)) for key, v in value.items()]
        elif value != default:
            lines.append((name, f"{_words(value)}   (default: {default})"))
    return lines


def _about(search: Search) -> str:
    highest = "highest" if search.mode == "max" else "lowest"
    return (
        f"Optuna tries {_count(search.num_samples, 'combination')} for the {highest} "
        f"{search.metric}"
    )


def _space(search: Search) -> list[Line]:
    from ray.tune.utils import flatten_dict

    space = flatten_dict(dict(search.space), delimiter=".")
    return [(name, in_words(domain)) for name, domain in space.items()]


def _words(value: Any) -> str:
    if isinstance(value, Mapping) and "grid_search" in value:
        return f"each of {', '.join(map(str, value['grid_search']))}"
    return str(value)


def _trial(
    experiment: Experiment, config: dict[str, Any], total: int, done: int
) -> tuple[list[Line], bool]:
    """Returns the lines of one of `total` trials, and whether it fits."""
    import ray

    from rllib_ppg.envs.module_spaces import module_spaces
    from rllib_ppg.resources.node_roles import learner_store_bytes

    have = ray.cluster_resources()
    store = learner_store_bytes()
    lines, replay = [], 0
    if experiment.run == "PPG":
        merged = experiment.algorithm.get_default_config().update_from_dict(config)
        modules = module_spaces(merged)
        replay = merged.replay_bytes_of_modules(modules)
        lines = _phases(merged, experiment.stop, replay, store, done)
        observation_space = next(iter(modules.values())).observations
        reason = merged.env_runner_reason
        more = {
            "policies": _policies(merged, modules),
            "env runner": f"RLlib's, because {reason}" if reason else "batched",
            "an observation": observation_lines.parts(observation_space),
            "memory": observation_lines.memory(merged),
            "settings": observation_lines.hint(merged, observation_space),
            "precision": precision_hint.hint(merged, observation_space),
        }
        lines += [(name, text) for name, text in more.items() if text]
    elif done:
        lines = [(_DONE, _count(done, "iteration"))]
    if end := _end(experiment.stop):
        lines.append(("the run", end))
    try:
        needed = {name: n for name, n in experiment.resources(config).items() if n}
    except ValueError as error:
        return [*lines, ("does not fit", str(error))], False
    words = ", ".join(f"{n:g} {name}s of {have.get(name, 0):g}" for name, n in needed.items())
    # Plus a little, since ten times 0.1 is slightly less than 1 in floating point.
    fit = (int(have.get(name, 0) / n + 1e-6) for name, n in needed.items())
    at_a_time = min([total, *fit])
    if total > 1:
        words += f": {_count(at_a_time, 'trial')} at a time"
    if at_a_time * replay > store:
        words += (
            f", with {_size(at_a_time * replay)} of replay lists; Ray moves to disk what does not "
            "fit into the object store"
        )
    return [*lines, ("resources", words)], True


def _end(stop: Mapping[str, float]) -> str | None:
    """What to know of a run that nothing limits; None if something does."""
    if any(is_budget(key) and value < math.inf for key, value in stop.items()):
        return None
    if not stop:
        return "never ends, as there is no --stop: Ctrl-C ends it and saves a checkpoint"
    return (
        f"may never end, since {' and '.join(stop)} may never come so far: add a budget to --stop, "
        "such as num_env_steps_sampled_lifetime"
    )


def _policies(config: PPGConfig, modules: Mapping[str, Any]) -> str | None:
    """What differs with several agents."""
    if not config.is_multi_agent:
        return None
    trained = ", ".join(sorted(module_id for module_id in modules if config.trains(module_id)))
    return (
        f"{trained}: each has these epochs and minibatches, whose numbers of states depend on what "
        "its agents do"
    )


def _phases(
    config: PPGConfig, stop: Mapping[str, float], replay: int, store: float, done: int
) -> list[Line]:
    """Returns the arithmetic of PPG's phases; `replay` and `store` are sizes in bytes."""
    batch, T = config.batch_size, config.rollout_fragment_length
    n = config.num_env_runners
    runners = f"{_count(n, 'env runner')} x " if n else ""
    has_two = config.has_value_epochs
    epochs = config.e_v + config.e_pi if has_two else config.e_pi
    steps = epochs * config.num_minibatches
    of_what = f" ({config.e_v} of the values, {config.e_pi} of the policy)" if has_two else ""
    lines = [
        (
            "an iteration",
            f"{batch:,} env steps: {runners}{config.num_envs_per_env_runner} envs x {T} steps",
        ),
        (
            "  policy phase",
            f"{_count(epochs, 'epoch')}{of_what} of {config.num_minibatches:,} minibatches of "
            f"{batch // config.num_minibatches:,} states: {steps:,} gradient steps",
        ),
    ]
    aux_steps = 0
    if config.has_aux_phase:
        minibatches = config.n_pi * config.num_aux_minibatches
        aux_steps = config.e_aux * minibatches
        lines += [
            ("a phase", f"{_count(config.n_pi, 'iteration')}: {config.n_pi * batch:,} env steps"),
            (
                "  auxiliary phase",
                f"{_count(config.e_aux, 'epoch')} of {minibatches:,} minibatches of "
                f"{batch // config.num_aux_minibatches:,} states: {aux_steps:,} gradient steps",
            ),
            ("  replay list", f"{_size(replay)} a trial, of the object store's {_size(store)}"),
        ]
    iterations = _iterations(stop, batch)
    if done and iterations is None:
        lines.append((_DONE, _progress(config, 0, done)))
    if iterations is not None:
        phases = iterations // config.n_pi if config.has_aux_phase else 0
        rest = iterations % config.n_pi if config.has_aux_phase else 0
        total = iterations * steps + phases * aux_steps
        n_pi = 2 ** int(math.log2(max(iterations / _PHASES, 1)))
        lines.append(
            (
                "the run",
                f"{_count(iterations, 'iteration')}: {iterations * batch:,} env steps, "
                f"{_count(phases, 'auxiliary phase')}, {total:,} gradient steps"
                + (f"; it ends {_count(rest, 'iteration')} into a phase" if rest else ""),
            )
        )
        if done:
            to_do = _progress(config, done, iterations) if done < iterations else "nothing"
            lines.append((_DONE, f"{_progress(config, 0, done)}; to do: {to_do}"))
        rates = {"lr": config.lr, "aux_lr": config.aux_lr}
        if ended := schedule_hint.hint(rates, iterations * batch):
            lines.append(("  learning rates", ended))
        if config.has_aux_phase and phases < _PHASES and n_pi < config.n_pi:
            lines.append(
                (
                    "  shorter phases",
                    f"n_pi={n_pi} or so: a run should have {_PHASES} phases "
                    "(docs/results/phase-length.md)",
                )
            )
    return lines


def _progress(config: PPGConfig, begin: int, end: int) -> str:
    """What a run does from one iteration to another."""
    text = _count(end - begin, "iteration")
    if not config.has_aux_phase:
        return text
    return f"{text}, {_count(end // config.n_pi - begin // config.n_pi, 'auxiliary phase')}"


def _iterations(stop: Mapping[str, float], batch: int) -> int | None:
    """Returns the largest number of iterations of a run; None if its stop does not limit it."""
    per_unit = {"training_iteration": 1, "num_env_steps_sampled_lifetime": batch}
    units = {key: per_unit.get(key.split("/")[-1]) for key in stop}
    limits = [
        math.ceil(stop[key] / unit) for key, unit in units.items() if unit and stop[key] < math.inf
    ]
    return min(limits) if limits else None


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _size(num_bytes: float) -> str:
    unit, name = next((u, n) for u, n in _UNITS if num_bytes >= u or u == 1)
    return f"{num_bytes / unit:.1f} {name}"


def _print(title: str, lines: list[Line]) -> None:
    print("\n".join([title, *_aligned(lines)]))


def _aligned(lines: list[Line]) -> list[str]:
    width = max((len(name) for name, _ in lines), default=0)
    return [
        line for name, text in lines for line in _wrapped(text, f"  {name:<{width}}   ", width + 5)
    ]


def _wrapped(text: str, head: str = "", indent: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,  # hyphens are parts of env names
    )
