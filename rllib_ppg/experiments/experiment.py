"""Experiments: a file or the command line's options, checked, as the arguments of a Tuner.

A YAML file is in RLlib's classic form, one experiment under its name::

    my-experiment:
      run: PPG
      env: procgen-coinrun-v0
      stop: {num_env_steps_sampled_lifetime: 1000000}
      num_samples: 1
      max_failures: 3
      checkpoint_config: {checkpoint_at_end: true}
      scheduler: async_hyperband
      scheduler_config: {time_attr: num_env_steps_sampled_lifetime, max_t: 1000000}
      config: {n_pi: 32, env_config: {distribution_mode: easy}}

A Python file has `config`, an `AlgorithmConfig` or a dict, and whichever of the other keys it needs
as variables of those names; its experiment is called as the file is. It is code, and it is run.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiments.experiment_file import (
    dump_yaml,
    find_experiment_file,
    import_experiment_file,
    parse_yaml,
)

if TYPE_CHECKING:
    from ray import tune
    from ray.rllib.algorithms import Algorithm, AlgorithmConfig
    from ray.rllib.callbacks.callbacks import RLlibCallback
    from ray.tune.schedulers import TrialScheduler

_FILE_KEYS = (
    "run",
    "env",
    "stop",
    "num_samples",
    "max_failures",
    "checkpoint_config",
    "scheduler",
    "scheduler_config",
    "config",
)
_CHECKPOINT_KEYS = (
    "checkpoint_at_end",
    "checkpoint_frequency",
    "checkpoint_score_attribute",
    "checkpoint_score_order",
    "num_to_keep",
)
# Properties of RLlib's configs that can't be set by name, and the attributes behind them.
_ATTRIBUTES = {"model_config": "_model_config", "rl_module_spec": "_rl_module_spec"}
# A scheduler's arguments that are names of results.
_OF_RESULTS = ("metric", "time_attr")
# The result that says how well a policy does, by the name that Tune gives nested results.
EPISODE_RETURN_MEAN = "env_runners/episode_return_mean"


@dataclass(frozen=True)
class Experiment:
    """What to train, on what, for how long, and what to keep of it.

    Attributes:
        run: The algorithm's name: "PPG" or one of RLlib's own.
        name: The folder of the results; None lets Tune make one of algorithm and date.
        config: The algorithm's config, `env` included; `{"grid_search": [...]}` and Tune's search
            spaces may stand for any value.
        stop: Result names ("training_iteration", "env_runners/episode_return_mean") and values at
            which a trial ends, whichever comes first; empty: it trains until interrupted.
        num_samples: How often the whole grid is run (see `with_seed`).
        max_failures: How often a trial that failed, as for a lost node, is started again, from its
            last checkpoint if there is one; -1: without end.
        checkpoint_config: Arguments of `ray.tune.CheckpointConfig`.
        scheduler: What ends or changes trials on the way: a Tune scheduler, or its name as
            `ray.tune.create_scheduler` knows it; None runs each to its stop.
        scheduler_config: Arguments of the scheduler of that name. Its `metric` and `mode` are the
            mean return and "max" unless they are given.
        storage_path: Where the results go, a folder or a URI; None means `~/ray_results`.
        restore: Checkpoint to start from, a folder or a URI; None starts from nothing.
    """

    run: str
    name: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, float] = field(default_factory=dict)
    num_samples: int = 1
    max_failures: int = 0
    checkpoint_config: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str | TrialScheduler | None = None
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    storage_path: str | None = None
    restore: str | None = None

    @classmethod
    def from_file(cls, file: str | Path) -> Experiment:
        """Reads an experiment file; one that is Python is run.

        Args:
            file: The path of a `.yaml`, `.yml` or `.py` file, or the name of a shipped example.

        Raises:
            ValueError: If there is no such file, it is not in the form above, or it has a key that
                experiments don't have.
        """
        path = find_experiment_file(file)
        if path.suffix == ".py":
            name, body = path.stem, _read_python(path)
        else:
            name, body = _read_yaml(path)
        config = dict(_mapping(body.get("config"), f"config in {path}"))
        if "env" in body:
            if config.get("env", body["env"]) != body["env"]:
                raise ValueError(
                    f"{path} names two environments: env says {body['env']}, "
                    f"config says {config['env']}"
                )
            config["env"] = body["env"]
        return cls(
            run=body["run"],
            name=name,
            config=config,
            stop=_mapping(body.get("stop"), f"stop in {path}"),
            num_samples=body.get("num_samples", 1),
            max_failures=body.get("max_failures", 0),
            checkpoint_config=_mapping(
                body.get("checkpoint_config"), f"checkpoint_config in {path}"
            ),
            scheduler=body.get("scheduler"),
            scheduler_config=_mapping(body.get("scheduler_config"), f"scheduler_config in {path}"),
        )

    def to_yaml(self) -> tuple[str, list[str]]:
        """Returns the experiment file that says the same, as far as it is data.

        Returns:
            The YAML, and the names of what is no data (classes, functions, search spaces of Tune's)
            and stands there as text.
        """
        body = {key: getattr(self, key) for key in _FILE_KEYS if key != "env"}
        defaults = {**vars(Experiment(run="")), "config": None}
        not_data: list[str] = []
        given = {k: v for k, v in body.items() if v != defaults[k]}
        data = as_data(given, not_data)
        return dump_yaml({self.name or self.run: data}), not_data

    def with_seed(self) -> Experiment:
        """Returns this experiment with a seed of its own for each sample.

        So samples differ, and the config that a run leaves behind is enough to repeat it. A seed S
        stands for S, S + 1, ...; without one, seeds are drawn.
        """
        seed, n = self.config.get("seed"), self.num_samples
        if seed is None:
            seeds = random.SystemRandom().sample(range(2**31), n)
        elif isinstance(seed, int):
            seeds = list(range(seed, seed + n))
        else:  # a grid
            return self
        if n == 1:
            return self.override(config={"seed": seeds[0]})
        return self.override(config={"seed": {"grid_search": seeds}}, num_samples=1)

    def override(
        self,
        *,
        config: Mapping[str, Any] | None = None,
        checkpoint_config: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Experiment:
        """Returns this experiment with other values where they are given.

        Args:
            config: Merged into the config, key by key, also inside nested dicts.
            checkpoint_config: Merged into the checkpoint config.
            **fields: Any other attribute; it replaces the old value, None leaves it.
        """
        return replace(
            self,
            config=_merged(self.config, config or {}),
            checkpoint_config=_merged(self.checkpoint_config, checkpoint_config or {}),
            **{key: value for key, value in fields.items() if value is not None},
        )

    def validate(self) -> None:
        """Checks all that can be known before Ray starts.

        Raises:
            ValueError: In one readable sentence.
        """
        for key, value in self.stop.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(
                    f"stop must map a result's name to a number, {key!r} has {value!r} "
                    "(a nested result's name is written with slashes, "
                    "as in env_runners/episode_return_mean)"
                )
        if not isinstance(self.num_samples, int) or self.num_samples < 1:
            raise ValueError(f"num_samples must be 1 or more, not {self.num_samples!r}")
        seed = self.config.get("seed")
        if self.num_samples > 1 and isinstance(seed, Mapping) and "grid_search" in seed:
            raise ValueError(
                f"num_samples={self.num_samples} would train each seed of {seed['grid_search']} "
                "as often: give more seeds in their place"
            )
        if not isinstance(self.max_failures, int) or self.max_failures < -1:
            raise ValueError(f"max_failures must be -1 or more, not {self.max_failures!r}")
        _reject_unknown(self.checkpoint_config, _CHECKPOINT_KEYS, "checkpoint_config")
        self._checkpoint_config()
        self._scheduler()
        if self.restore:
            from rllib_ppg.checkpoint.folder import check_checkpoint

            check_checkpoint(self.restore)
        algorithm = self.algorithm
        self._for_each_variant(lambda config: _validate_config(algorithm, config))

    def validate_cluster(self) -> None:
        """Checks that the running Ray cluster can take a trial of each variant, and its results.

        Raises:
            ValueError: If a trial would wait for ever, or if nodes do not share the storage.
        """
        from rllib_ppg.resources.shared_storage import check_shared

        self._for_each_variant(self.resources)
        # Tune's default is in the home of each node, which may not be the one of this machine.
        check_shared(_absolute(self.storage_path) if self.storage_path else "~/ray_results")

    def resources(self, config: dict[str, Any]) -> dict[str, float]:
        """Returns what one trial reserves of the running Ray cluster, by the resource's name.

        Args:
            config: of the trial, as in `variants`.

        Raises:
            ValueError: If the cluster has less, and nobody adds nodes to it.
        """
        import ray

        from rllib_ppg.resources.capacity import has_autoscaler

        # PPG says by itself, and in more detail, what does not fit.
        needed = self.algorithm.default_resource_request(config).required_resources
        have = ray.cluster_resources()
        for name, amount in needed.items():
            if amount > have.get(name, 0) and not has_autoscaler():
                raise ValueError(
                    f"a trial asks for {amount:g} {name}s and Ray has {have.get(name, 0):g}: "
                    "lower num_env_runners or num_learners"
                )
        return needed

    @property
    def result_names(self) -> dict[str, str]:
        """Names of results that something goes by, beside `stop`, and what that is."""
        names = {self.scheduler_config.get(key): f"the scheduler's {key}" for key in _OF_RESULTS}
        key = "checkpoint_score_attribute"
        names[self.checkpoint_config.get(key)] = key
        return {name: what for name, what in names.items() if name}

    @property
    def algorithm(self) -> type[Algorithm]:
        """The algorithm's class.

        Raises:
            ValueError: If RLlib knows none of that name.
        """
        return _algorithm_class(self.run)

    def to_tuner(
        self,
        *,
        callbacks: Iterable[tune.Callback] = (),
        rllib_callbacks: Iterable[type[RLlibCallback]] = (),
    ) -> tune.Tuner:
        """Returns the Tuner that runs this experiment.

        Args:
            callbacks: Tune's callbacks, called in this process.
            rllib_callbacks: RLlib's callbacks, called where the algorithm runs, after those that
                the config has already.

        Raises:
            ValueError: If the config's own callbacks cannot be imported.
        """
        from ray import tune

        from rllib_ppg.callbacks import promote_metric

        _allow_missing_metrics()
        callbacks = list(callbacks)
        if self.restore:
            from rllib_ppg.experiments.start_checkpoint import StartFromCheckpoint

            callbacks.append(StartFromCheckpoint(_absolute(self.restore)))
        config = _by_attribute(self.run, self.config)
        config |= self._network_for_images(config)
        if score := self.checkpoint_config.get("checkpoint_score_attribute"):
            rllib_callbacks = [*rllib_callbacks, promote_metric(score)]
        if rllib_callbacks:
            config["callbacks_class"] = [*_config_callbacks(config), *rllib_callbacks]
            config.pop("callbacks", None)
        return tune.Tuner(
            self.run,
            param_space=config,
            tune_config=tune.TuneConfig(num_samples=self.num_samples, scheduler=self._scheduler()),
            run_config=tune.RunConfig(
                name=self.name,
                storage_path=_absolute(self.storage_path) if self.storage_path else None,
                stop=dict(self.stop),
                checkpoint_config=self._checkpoint_config(),
                failure_config=tune.FailureConfig(max_failures=self.max_failures),
                callbacks=callbacks,
                verbose=0,
            ),
        )

    def _network_for_images(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The paper's network, where RLlib's PPO would fail: its own takes no uint8 images."""
        if self.run != "PPO" or {*_ATTRIBUTES.values(), "model"} & set(config):
            return {}
        from ray.rllib.core.rl_module.rl_module import RLModuleSpec

        from rllib_ppg.envs.vector_env import probe_spaces
        from rllib_ppg.networks.ppo_rl_module import ImpalaPPOModule

        _, first = next(self.variants())
        merged = self.algorithm.get_default_config().update_from_dict(first)
        try:
            observations, _ = probe_spaces(merged)
        except ValueError:  # a multi-agent env, or one for RLlib alone to make
            return {}
        if len(observations.shape) != 3 or observations.dtype != np.uint8:
            return {}
        return {"_rl_module_spec": RLModuleSpec(module_class=ImpalaPPOModule)}

    def to_resumed_tuner(
        self, callbacks: Iterable[tune.Callback], keep: type[tune.Callback]
    ) -> tuple[tune.Tuner, Mapping[str, float]]:
        """Returns the Tuner that goes on with this experiment where it was interrupted.

        Trials go on from their last checkpoints, or begin anew if they have none, with the settings
        that they were started with.

        Args:
            callbacks: Tune's callbacks, called in this process.
            keep: The class of those callbacks of the first run that are called again.

        Returns:
            The Tuner, and the `stop` that the first run was given.

        Raises:
            ValueError: If there is nothing to resume.
        """
        from ray import tune

        from rllib_ppg import ray_private
        from rllib_ppg.experiments.start_checkpoint import StartFromCheckpoint

        _allow_missing_metrics()
        tuner = tune.Tuner.restore(self.resumable(), trainable=self.run, resume_errored=True)
        # Tune keeps the callbacks of the first run, in the state that they were pickled in.
        run_config = ray_private.run_config(tuner)
        keep_classes = (keep, StartFromCheckpoint)
        first = run_config.callbacks or ()
        kept = [callback for callback in first if isinstance(callback, keep_classes)]
        run_config.callbacks = [*callbacks, *kept]
        return tuner, run_config.stop or {}

    def resumable(self) -> str:
        """Returns the folder, or URI, of this experiment's earlier run.

        Raises:
            ValueError: If there is none, or this experiment has no name to find it by.
        """
        from pyarrow.fs import FileType
        from ray.train.constants import DEFAULT_STORAGE_PATH

        from rllib_ppg.checkpoint.folder import resolve

        if self.name is None:
            raise ValueError("--resume needs the name of the experiment that it resumes: -n NAME")
        folder = f"{_absolute(self.storage_path or DEFAULT_STORAGE_PATH)}/{self.name}"
        filesystem, path = resolve(folder)
        if filesystem.get_file_info(f"{path}/tuner.pkl").type != FileType.File:
            raise ValueError(f"there is nothing to resume in {folder}")
        return folder

    def variants(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the config of each trial and what tells it from the others, as in "n_pi=4"."""
        from ray.tune.search.variant_generator import generate_variants

        for resolved, config in generate_variants(_by_attribute(self.run, self.config)):
            yield ", ".join(f"{path[-1]}={value}" for path, value in resolved.items()), config

    def _for_each_variant(self, check: Callable[[dict[str, Any]], Any]) -> None:
        for label, config in self.variants():
            try:
                check(config)
            except (ValueError, TypeError, AttributeError) as error:
                where = f" (in the trial with {label})" if label else ""
                raise ValueError(f"{error}{where}") from error

    def _checkpoint_config(self) -> tune.CheckpointConfig:
        from ray import tune

        # Tune saves at the end unless told not to; PPG's checkpoints hold the replay list, and
        # gigabytes are for the user to ask for.
        return tune.CheckpointConfig(**{"checkpoint_at_end": False, **self.checkpoint_config})

    def _scheduler(self) -> TrialScheduler | None:
        from ray.tune.error import TuneError
        from ray.tune.schedulers import SCHEDULER_IMPORT, create_scheduler

        if not isinstance(self.scheduler, str):
            if self.scheduler_config:
                raise ValueError("scheduler_config needs a scheduler's name, as in scheduler: pbt")
            return self.scheduler
        name = self.scheduler.lower()
        if name not in SCHEDULER_IMPORT:
            raise ValueError(
                f"there is no scheduler {self.scheduler!r}, there are "
                f"{', '.join(SCHEDULER_IMPORT)}{did_you_mean(name, SCHEDULER_IMPORT)}"
            )
        cls = SCHEDULER_IMPORT[name]
        known = inspect.signature(cls() if inspect.isfunction(cls) else cls).parameters
        _reject_unknown(self.scheduler_config, known, f"scheduler {self.scheduler}")
        # Ray leaves out what the scheduler does not take.
        defaults = {"metric": EPISODE_RETURN_MEAN, "mode": "max"}
        try:
            return create_scheduler(name, **{**defaults, **self.scheduler_config})
        except (TypeError, ValueError, AssertionError, TuneError) as error:
            raise ValueError(f"scheduler {self.scheduler}: {error}") from error


def _read_yaml(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Returns the name of a YAML file's experiment, and what it says."""
    content = _mapping(parse_yaml(path.read_text(), str(path)), str(path))
    if len(content) != 1:
        raise ValueError(
            f"{path} must hold one experiment, `name: {{run: ..., env: ..., ...}}`, "
            f"it holds {len(content)}"
        )
    [(name, body)] = content.items()
    body = _mapping(body, f"experiment {name} in {path}")
    _reject_unknown(body, _FILE_KEYS, f"experiment {name} in {path}")
    if not isinstance(body.get("run"), str):
        raise ValueError(f"experiment {name} in {path} must name its algorithm, as in `run: PPG`")
    return str(name), body


def _read_python(path: Path) -> Mapping[str, Any]:
    """Returns what a Python file says, in a YAML file's terms."""
    from ray.rllib.algorithms import AlgorithmConfig
    from ray.rllib.algorithms.registry import ALGORITHMS_CLASS_TO_NAME

    module = import_experiment_file(path)
    body = {key: getattr(module, key) for key in _FILE_KEYS if hasattr(module, key)}
    config = body.get("config")
    if isinstance(config, AlgorithmConfig):
        algorithm = config.algo_class.__name__
        body["run"] = ALGORITHMS_CLASS_TO_NAME.get(algorithm, algorithm)
        body["config"] = changed_settings(config)
    elif not isinstance(config, Mapping):
        raise ValueError(f"{path} must have a `config`, an AlgorithmConfig or a dict")
    return {"run": "PPG", **body}


def changed_settings(config: AlgorithmConfig) -> dict[str, Any]:
    """Returns those settings of a config that are not its class's defaults.

    By the names that other settings are given by, so that `Experiment.override` merges the two.
    """
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

    defaults = vars(config.algo_class.get_default_config())
    names = {attribute: name for name, attribute in _ATTRIBUTES.items()}
    names |= {f"_{name}": name for name in _settable_properties(type(config))}
    return {
        names.get(name, name): asdict(value) if isinstance(value, DefaultModelConfig) else value
        for name, value in vars(config).items()
        if name not in ("algo_class", "_is_frozen")
        and not (name in defaults and _same(value, defaults[name]))
    }


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (ValueError, TypeError):  # arrays, say
        return False


def is_budget(key: str) -> bool:
    """Whether a key of `stop` is what a run may spend, rather than what it is to reach."""
    name = key.split("/")[-1]
    return name.startswith(("num_", "time", "iterations_")) or name == "training_iteration"


def setting_of(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """Returns a trial's setting by the name that its user gave it."""
    return config.get(key, config.get(_ATTRIBUTES.get(key, key), default))


def _by_attribute(run: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Names settings as RLlib's configs take them; PPG's takes them all."""
    if run == "PPG":
        return dict(config)
    return {_ATTRIBUTES.get(key, key): value for key, value in config.items()}


def _allow_missing_metrics() -> None:
    # An iteration in which no episode ended has no mean return. Tune would end the run.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")


def _algorithm_class(run: str) -> type[Algorithm]:
    from ray.rllib.algorithms.registry import ALGORITHMS
    from ray.tune.registry import get_trainable_cls

    if run not in ALGORITHMS:
        raise ValueError(
            f"there is no algorithm {run!r}, there are {', '.join(sorted(ALGORITHMS))}"
            f"{did_you_mean(run, ALGORITHMS)}"
        )
    return get_trainable_cls(run)


def _validate_config(algorithm: type[Algorithm], config: dict[str, Any]) -> None:
    from ray.rllib.algorithms import AlgorithmConfig

    from rllib_ppg.envs.vector_env import check_env_id

    merged: AlgorithmConfig = algorithm.get_default_config()
    if type(merged).update_from_dict is AlgorithmConfig.update_from_dict:
        # RLlib's own takes any key, also a mistyped one.
        known = {*merged.to_dict(), *vars(merged), *_settable_properties(type(merged))}
        _reject_unknown(config, known, f"{type(merged).__name__}")
    merged.update_from_dict(config)
    merged.validate()
    if isinstance(merged.env, str):
        check_env_id(merged.env)


def _settable_properties(cls: type) -> set[str]:
    properties = {name: getattr(cls, name) for name in dir(cls)}
    return {n for n, p in properties.items() if isinstance(p, property) and p.fset}


def _config_callbacks(config: Mapping[str, Any]) -> list[type[RLlibCallback]]:
    from ray.rllib.utils import force_list
    from ray.rllib.utils.serialization import deserialize_type

    callbacks = force_list(config.get("callbacks_class", config.get("callbacks")))
    return [deserialize_type(callback, error=True) for callback in callbacks]


def as_data(value: Any, not_data: list[str] | None = None, name: str = "") -> Any:
    """Returns a value in the types that YAML and JSON have.

    Args:
        value: Any value; what has no such type becomes text.
        not_data: The names of such values are appended here.
        name: of the value.
    """
    if isinstance(value, Mapping):
        return {
            str(k): as_data(v, not_data, f"{name}.{k}" if name else str(k))
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [as_data(v, not_data, name) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return as_data(asdict(value), not_data, name)
    if value is None or isinstance(value, str | int | float):
        return value
    if not_data is not None:
        not_data.append(name)
    return str(value)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a mapping, not {value!r}")
    return value


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        below = old.get(key)
        merged[key] = _merged(below, value) if _is_dict(below) and _is_dict(value) else value
    return merged


def _is_dict(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and "grid_search" not in value


def _reject_unknown(keys: Iterable[str], known: Collection[str], where: str) -> None:
    for key in keys:
        if key not in known:
            raise ValueError(f"{where} has no setting {key!r}{did_you_mean(str(key), known)}")


def _absolute(path: str) -> str:
    """Returns a path as Tune needs it: absolute, or a URI."""
    return path if "://" in path else str(Path(path).expanduser().absolute())
