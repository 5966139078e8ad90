"""Experiments: a YAML file or the command line's options, checked, as the arguments of a Tuner.

A file is in RLlib's classic form, one experiment under its name::

    my-experiment:
      run: PPG
      env: procgen-coinrun-v0
      stop: {num_env_steps_sampled_lifetime: 1000000}
      num_samples: 1
      checkpoint_config: {checkpoint_at_end: true}
      config: {n_pi: 32, env_config: {distribution_mode: easy}}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiment_file import find_experiment_file, parse_yaml

if TYPE_CHECKING:
    from ray import tune
    from ray.rllib.algorithms import Algorithm, AlgorithmConfig
    from ray.rllib.callbacks.callbacks import RLlibCallback

_FILE_KEYS = ("run", "env", "stop", "num_samples", "checkpoint_config", "config")
_CHECKPOINT_KEYS = (
    "checkpoint_at_end",
    "checkpoint_frequency",
    "checkpoint_score_attribute",
    "checkpoint_score_order",
    "num_to_keep",
)


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
        num_samples: How often the whole grid is run.
        checkpoint_config: Arguments of `ray.tune.CheckpointConfig`.
        storage_path: Where the results go, a folder or a URI; None means `~/ray_results`.
        restore: A checkpoint to start from.
    """

    run: str
    name: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    stop: Mapping[str, float] = field(default_factory=dict)
    num_samples: int = 1
    checkpoint_config: Mapping[str, Any] = field(default_factory=dict)
    storage_path: str | None = None
    restore: str | None = None

    @classmethod
    def from_file(cls, file: str | Path) -> Experiment:
        """Reads an experiment file.

        Args:
            file: The path of a `.yaml` or `.yml` file, or the name of a shipped example.

        Raises:
            ValueError: If there is no such file, it is not in the form above, or it has a key that
                experiments don't have.
        """
        path = find_experiment_file(file)
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
            raise ValueError(
                f"experiment {name} in {path} must name its algorithm, as in `run: PPG`"
            )
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
            name=str(name),
            config=config,
            stop=_mapping(body.get("stop"), f"stop in {path}"),
            num_samples=body.get("num_samples", 1),
            checkpoint_config=_mapping(
                body.get("checkpoint_config"), f"checkpoint_config in {path}"
            ),
        )

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
        _reject_unknown(self.checkpoint_config, _CHECKPOINT_KEYS, "checkpoint_config")
        self._checkpoint_config()
        if self.restore:
            from rllib_ppg.checkpoint import check_checkpoint

            check_checkpoint(self.restore)
        self._for_each_variant(_validate_config)

    def validate_resources(self) -> None:
        """Checks that a trial of each variant fits into the running Ray cluster.

        Raises:
            ValueError: If a trial would wait for ever.
        """
        import ray

        from rllib_ppg.resources import has_autoscaler

        have = ray.cluster_resources()

        def check(algorithm: type[Algorithm], config: dict[str, Any]) -> None:
            # PPG says by itself, and in more detail, what does not fit.
            needed = algorithm.default_resource_request(config).required_resources
            for name, amount in needed.items():
                if amount > have.get(name, 0) and not has_autoscaler():
                    raise ValueError(
                        f"a trial asks for {amount:g} {name}s and Ray has {have.get(name, 0):g}: "
                        "lower num_env_runners or num_learners"
                    )

        self._for_each_variant(check)

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

        config = dict(self.config)
        if rllib_callbacks:
            config["callbacks_class"] = [*_config_callbacks(config), *rllib_callbacks]
            config.pop("callbacks", None)
        return tune.Tuner(
            self.run,
            param_space=config,
            tune_config=tune.TuneConfig(num_samples=self.num_samples),
            run_config=tune.RunConfig(
                name=self.name,
                storage_path=_absolute(self.storage_path) if self.storage_path else None,
                stop=dict(self.stop),
                checkpoint_config=self._checkpoint_config(),
                callbacks=list(callbacks),
                verbose=0,
            ),
            # `tune.run(restore=)` has no public counterpart here, and a restoring callback in the
            # config would be saved with, and run again from, every later checkpoint.
            _tuner_kwargs={"restore": _absolute(self.restore)} if self.restore else None,
        )

    def variants(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the config of each trial and what tells it from the others, as in "n_pi=4"."""
        from ray.tune.search.variant_generator import generate_variants

        for resolved, config in generate_variants(dict(self.config)):
            yield ", ".join(f"{path[-1]}={value}" for path, value in resolved.items()), config

    def _for_each_variant(self, check: Callable[[type[Algorithm], dict[str, Any]], None]) -> None:
        algorithm = _algorithm_class(self.run)
        for label, config in self.variants():
            try:
                check(algorithm, config)
            except (ValueError, TypeError, AttributeError) as error:
                where = f" (in the trial with {label})" if label else ""
                raise ValueError(f"{error}{where}") from error

    def _checkpoint_config(self) -> tune.CheckpointConfig:
        from ray import tune

        # Tune saves at the end unless told not to; PPG's checkpoints hold the replay list, and
        # gigabytes are for the user to ask for.
        return tune.CheckpointConfig(**{"checkpoint_at_end": False, **self.checkpoint_config})


def _algorithm_class(run: str) -> type[Algorithm]:
    from ray.rllib.algorithms.registry import ALGORITHMS
    from ray.tune.registry import get_trainable_cls

    import rllib_ppg  # noqa: F401  puts PPG into the registry

    if run not in ALGORITHMS:
        raise ValueError(
            f"there is no algorithm {run!r}, there are {', '.join(sorted(ALGORITHMS))}"
            f"{did_you_mean(run, ALGORITHMS)}"
        )
    return get_trainable_cls(run)


def _validate_config(algorithm: type[Algorithm], config: dict[str, Any]) -> None:
    from ray.rllib.algorithms import AlgorithmConfig

    from rllib_ppg.vector_env import check_env_id

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
