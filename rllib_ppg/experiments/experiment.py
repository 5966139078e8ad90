"""Experiments: what to train, read from a file or from options, and checked.

A YAML file has RLlib's classic form, one experiment under its name::

    my-experiment:
      run: PPG
      env: procgen-coinrun-v0
      stop: {num_env_steps_sampled_lifetime: 1000000}
      num_samples: 1
      max_failures: 3
      checkpoint_config: {checkpoint_at_end: true}
      scheduler: async_hyperband
      scheduler_config: {time_attr: num_env_steps_sampled_lifetime, max_t: 1000000}
      search: {optuna: {lr: {loguniform: [1e-5, 1e-3]}}, num_samples: 20}
      config: {n_pi: 32, env_config: {distribution_mode: easy}}

A Python file is run. It sets the variable `config`, an `AlgorithmConfig` or a dict, and any of the
other keys as variables. Its experiment has the name of the file.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiments.checkpoint_settings import make_checkpoint_config
from rllib_ppg.experiments.experiment_file import (
    dump_yaml,
    find_experiment_file,
    import_experiment_file,
    parse_yaml,
)
from rllib_ppg.experiments.mutations import changed_once
from rllib_ppg.experiments.result_names import check_result_name
from rllib_ppg.experiments.search import Search, parse_search
from rllib_ppg.experiments.settings import (
    absolute,
    as_data,
    as_mapping,
    by_attribute,
    changed_settings,
    check_grids,
    merge,
    reject_code,
    reject_unknown,
    settable_properties,
)
from rllib_ppg.experiments.trial_names import settings_in_words
from rllib_ppg.experiments.tuner import make_scheduler
from rllib_ppg.setting_names import INSTEAD

if TYPE_CHECKING:
    from ray.rllib.algorithms import Algorithm, AlgorithmConfig
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
    "search",
    "config",
)
# Settings whose code may log results of its own; callbacks may, too.
_ADDING_RESULTS = (
    "learner_class",
    "env_runner_cls",
    "custom_evaluation_function",
    "rl_module_spec",
)
# Arguments of schedulers that name results.
_RESULT_ARGUMENTS = ("metric", "time_attr")
_DRAWS = 100  # of a search's settings, to find some that are valid


@dataclass(frozen=True)
class Experiment:
    """What to train, for how long, and what to keep.

    Attributes:
        run: Name of the algorithm: "PPG" or one of RLlib's.
        name: Folder of the results; by default it is made of algorithm and date.
        config: The algorithm's config, including `env`. Any value can be
            `{"grid_search": [...]}` or one of Tune's search spaces.
        stop: Results ("training_iteration", "env_runners/episode_return_mean") and the values at
            which a trial ends, whichever comes first; empty: it trains until interrupted.
        num_samples: Number of times that the whole grid is run (see `with_seed`).
        max_failures: Number of times that a failed trial is started again, from its last checkpoint
            if there is one; -1: without limit.
        checkpoint_config: Arguments of `ray.tune.CheckpointConfig`.
        scheduler: Tune scheduler that ends or changes trials early, or its name for
            `ray.tune.create_scheduler`; None runs each trial to its `stop`.
        scheduler_config: Arguments of the scheduler of that name. `metric` and `mode` default to
            the mean return and "max".
        search: Settings that Optuna tries, `{"optuna": {...}, "num_samples": N, "seed": S}`, with
            spaces as in `{"lr": {"loguniform": [1e-5, 1e-3]}}`, and what it optimises: `metric` and
            `mode`, by default the mean return and "max"; empty: there is no search.
        storage_path: Folder or URI of the results; None means `~/ray_results`.
        restore: Folder or URI of a checkpoint to start from; None starts from scratch.
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
    search: Mapping[str, Any] = field(default_factory=dict)
    storage_path: str | None = None
    restore: str | None = None

    @classmethod
    def from_file(cls, file: str | Path) -> Experiment:
        """Reads an experiment file; a Python file is run.

        Args:
            file: Path of a `.yaml`, `.yml` or `.py` file, or the name of a shipped example.

        Raises:
            ValueError: There is no such file, or it does not hold an experiment.
        """
        path = find_experiment_file(file)
        if path.suffix == ".py":
            name, body = path.stem, _read_python(path)
        else:
            name, body = _read_yaml(path)
        config = dict(as_mapping(body.get("config"), f"config in {path}"))
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
            stop=as_mapping(body.get("stop"), f"stop in {path}"),
            num_samples=body.get("num_samples", 1),
            max_failures=body.get("max_failures", 0),
            checkpoint_config=as_mapping(
                body.get("checkpoint_config"), f"checkpoint_config in {path}"
            ),
            scheduler=body.get("scheduler"),
            scheduler_config=as_mapping(
                body.get("scheduler_config"), f"scheduler_config in {path}"
            ),
            search=as_mapping(body.get("search"), f"search in {path}"),
        )

    @classmethod
    def from_config(cls, config: AlgorithmConfig, **fields: Any) -> Experiment:
        """The experiment that trains an algorithm's config.

        Args:
            config: The config.
            **fields: Other attributes of the experiment.
        """
        from ray.rllib.algorithms.registry import ALGORITHMS_CLASS_TO_NAME

        algorithm = config.algo_class.__name__
        run = ALGORITHMS_CLASS_TO_NAME.get(algorithm, algorithm)
        return cls(run=run, config=changed_settings(config), **fields)

    def to_yaml(self) -> tuple[str, list[str]]:
        """Converts this experiment to an experiment file.

        Returns:
            The YAML, and the names of values that it holds only as text because they are not data:
            classes, functions, Tune's search spaces.
        """
        body = {key: getattr(self, key) for key in _FILE_KEYS if key != "env"}
        defaults = {**vars(Experiment(run="")), "config": None}
        not_data: list[str] = []
        given = {k: v for k, v in body.items() if v != defaults[k]}
        data = as_data(given, not_data)
        return dump_yaml({self.name or self.run: data}), not_data

    def with_seed(self) -> Experiment:
        """Returns this experiment with a different seed for each sample.

        Samples then differ, and each run can be repeated from its saved config. A seed S becomes
        S, S + 1, ...; without a seed, random seeds are used.
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
        """Returns this experiment with some values changed.

        Args:
            config: Settings to merge into the config key by key, nested dicts included.
            checkpoint_config: Settings to merge into the checkpoint config.
            **fields: New values of other attributes; None keeps the old value. `num_samples` of an
                experiment with a search is the search's.
        """
        search = self.search if fields.get("search") is None else fields["search"]
        if search and fields.get("num_samples") is not None:
            fields["search"] = {**search, "num_samples": fields.pop("num_samples")}
        return replace(
            self,
            config=merge(self.config, config or {}),
            checkpoint_config=merge(self.checkpoint_config, checkpoint_config or {}),
            **{key: value for key, value in fields.items() if value is not None},
        )

    def validate(self) -> None:
        """Checks everything that can be checked before Ray starts.

        Raises:
            ValueError: Something is wrong; the error says so in one sentence.
        """
        from rllib_ppg.experiments.run_folder import check_run_name

        check_run_name(self.name)
        for key, value in self.stop.items():
            if not isinstance(key, str):
                raise ValueError(f"stop must map a result's name to a number, {key!r} is no name")
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
                f"{self.num_samples} times: give more seeds instead"
            )
        if not isinstance(self.max_failures, int) or self.max_failures < -1:
            raise ValueError(f"max_failures must be -1 or more, not {self.max_failures!r}")
        make_checkpoint_config(self.checkpoint_config)
        for setting, name in self._settings_of_results:
            if name is not None and not isinstance(name, str):
                raise ValueError(f"{setting} must be the name of a result, not {name!r}")
        make_scheduler(self.scheduler, self.scheduler_config)
        if self.restore:
            from rllib_ppg.checkpoint.folder import check_checkpoint

            check_checkpoint(self.restore)
        reject_code(self.config, "config")
        check_grids(self.config)
        if self.search:
            self._check_search()
        for name, setting in {**self.result_names, **dict.fromkeys(self.stop, "stop")}.items():
            check_result_name(name, setting, all_known=self._has_no_results_of_its_own)
        algorithm = self.algorithm
        self._for_each_variant(lambda config: _validate_config(algorithm, config))
        if new := changed_once(self.scheduler_config):
            self._for_each_variant(lambda config: _validate_config(algorithm, merge(config, new)))

    def _check_search(self) -> None:
        reject_code(self.search.get("optuna"), "search.optuna")
        if self.num_samples > 1:
            raise ValueError(
                "num_samples trains each config with several seeds, and a search tries configs: "
                "leave it out, and say how many in search.num_samples"
            )
        if self.storage_path and "://" in self.storage_path:
            raise ValueError(
                f"a search keeps its study in a file of the run's folder: --storage-path must be a "
                f"folder, not {self.storage_path}"
            )

    def validate_cluster(self) -> None:
        """Checks that the running Ray cluster can run each trial and store its results.

        Raises:
            ValueError: A trial would wait forever, or the nodes do not share the storage.
        """
        from rllib_ppg.resources.shared_storage import check_shared

        self._for_each_variant(self.resources)
        # Tune's default is the home folder of each node, which may differ from the one here.
        check_shared(absolute(self.storage_path) if self.storage_path else "~/ray_results")

    def resources(self, config: dict[str, Any]) -> dict[str, float]:
        """Resources that a trial reserves in the running Ray cluster, by name.

        Args:
            config: Config of the trial, from `variants`.

        Raises:
            ValueError: The cluster has less, and no autoscaler that adds nodes.
        """
        import ray

        from rllib_ppg.resources.capacity import has_autoscaler

        # PPG raises a more detailed error itself.
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
        """Results that settings other than `stop` refer to, and the settings that do."""
        return {name: setting for setting, name in self._settings_of_results if name}

    @property
    def _settings_of_results(self) -> list[tuple[str, Any]]:
        scheduler = [
            (f"the scheduler's {key}", self.scheduler_config.get(key)) for key in _RESULT_ARGUMENTS
        ]
        score = "checkpoint_score_attribute"
        return [
            *scheduler,
            (score, self.checkpoint_config.get(score)),
            ("search.metric", self.search.get("metric")),
        ]

    @property
    def _has_no_results_of_its_own(self) -> bool:
        return self.run == "PPG" and not any(
            key.startswith("callbacks") or key in _ADDING_RESULTS for key in self.config
        )

    @property
    def algorithm(self) -> type[Algorithm]:
        """The algorithm's class.

        Raises:
            ValueError: RLlib has no such algorithm.
        """
        return _algorithm_class(self.run)

    @property
    def parsed_search(self) -> Search | None:
        """The search; None if there is none.

        Raises:
            ValueError: Something of it is wrong.
        """
        if not self.search:
            return None
        scheduler = make_scheduler(self.scheduler, self.scheduler_config)
        config = by_attribute(self.run, self.config)
        return parse_search(self.search, self.run, config, scheduler)

    def check_drawn(self, fixed: Mapping[str, Any], drawn: Mapping[str, Any]) -> None:
        """Raises ValueError if drawn settings are invalid with the fixed ones, or do not fit."""
        import ray

        config = merge(fixed, drawn)
        try:
            _validate_config(self.algorithm, config)
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error
        if ray.is_initialized():  # before that, nobody knows what there is
            self.resources(config)

    def variants(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields a label that tells a trial from the others, as in "n_pi=4", and its config.

        For a search it yields one trial, with settings drawn at random that are valid.

        Raises:
            ValueError: None of the settings drawn for a search is valid.
        """
        from ray.tune.search.variant_generator import generate_variants

        if search := self.parsed_search:
            yield self._first_valid(search)
            return
        for resolved, config in generate_variants(by_attribute(self.run, self.config)):
            yield settings_in_words(resolved), config

    def _first_valid(self, search: Search) -> tuple[str, dict[str, Any]]:
        from ray.tune.search.variant_generator import generate_variants

        random_state = np.random.RandomState(search.seed or 0)
        errors = []
        for _ in range(_DRAWS):
            [(resolved, config)] = generate_variants(
                merge(search.fixed, search.space), random_state=random_state
            )
            try:
                self.check_drawn({}, config)
            except ValueError as error:
                errors.append(error)
            else:
                return f"such as {settings_in_words(resolved)}", config
        raise ValueError(
            f"{errors[0]} (none of the {_DRAWS} combinations drawn for the search is valid)"
        )

    def _for_each_variant(self, check: Callable[[dict[str, Any]], Any]) -> None:
        for label, config in self.variants():
            try:
                check(config)
            except (ValueError, TypeError, AttributeError) as error:
                where = f" (in the trial with {label})" if label else ""
                raise ValueError(f"{error}{where}") from error


def _read_yaml(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Returns the name and the content of a YAML file's experiment."""
    content = as_mapping(parse_yaml(path.read_text(), str(path)), str(path))
    if len(content) != 1:
        raise ValueError(
            f"{path} must hold one experiment, `name: {{run: ..., env: ..., ...}}`, "
            f"it holds {len(content)}"
        )
    [(name, body)] = content.items()
    body = as_mapping(body, f"experiment {name} in {path}")
    reject_unknown(body, _FILE_KEYS, f"experiment {name} in {path}")
    if not isinstance(body.get("run"), str):
        raise ValueError(f"experiment {name} in {path} must name its algorithm, as in `run: PPG`")
    return str(name), body


def _read_python(path: Path) -> Mapping[str, Any]:
    """Returns the content of a Python file in the form of a YAML file."""
    from ray.rllib.algorithms import AlgorithmConfig

    module = import_experiment_file(path)
    body = {key: getattr(module, key) for key in _FILE_KEYS if hasattr(module, key)}
    config = body.get("config")
    if isinstance(config, AlgorithmConfig):
        experiment = Experiment.from_config(config)
        body |= {"run": experiment.run, "config": experiment.config}
    elif not isinstance(config, Mapping):
        raise ValueError(f"{path} must have a `config`, an AlgorithmConfig or a dict")
    return {"run": "PPG", **body}


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

    from rllib_ppg.envs.vector_env import check_env_exists

    merged: AlgorithmConfig = algorithm.get_default_config()
    if type(merged).update_from_dict is AlgorithmConfig.update_from_dict:
        # RLlib's method takes any key, including mistyped ones.
        known = {*merged.to_dict(), *vars(merged), *settable_properties(type(merged))}
        for key in config:
            if key not in known:
                today = INSTEAD.get(key)
                near = f"; did you mean {today!r}?" if today in known else did_you_mean(key, known)
                raise ValueError(f"{type(merged).__name__} has no setting {key!r}{near}")
    merged.update_from_dict(config)
    merged.validate()
    if isinstance(merged.env, str):
        check_env_exists(merged)
