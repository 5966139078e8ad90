"""The Optuna study of a search, in a file of the run's folder."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.rllib.utils.annotations import override
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Categorical
from ray.tune.utils import flatten_dict
from ray.tune.utils.util import unflatten_dict

from rllib_ppg.experiments.search import Search

FILE = "optuna_study.log"  # optuna-dashboard reads it
_NAME = "search"
_TRIAL = "trial"  # attribute with Tune's id
_ATTEMPTS = 1_000  # at a valid combination
_STARTUP = 10  # trials whose settings are drawn at random, as Optuna does
_PRIMITIVE = (type(None), bool, int, float, str)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class _GoodTrials:
    """How many trials the TPE sampler takes as models: of those that have ended, a tenth.

    Optuna's own rule counts pruned trials, too, and so would seek invalid combinations while there
    are few others.
    """

    num_ended = 0

    def __call__(self, num_trials: int) -> int:
        return min(math.ceil(0.1 * self.num_ended), 25)


class StudySearch(Searcher):
    """Asks an Optuna study for each trial's settings, and tells it how the trial ended.

    Unlike Ray's `OptunaSearch`, it prunes invalid settings before they become a trial, accepts
    results without the metric, and leaves no trial open in the study after a kill.

    Args:
        search: The search.
        folder: The run's folder; the study is a file in it.
        check: Is called with a trial's drawn settings; ValueError: they are invalid.
        param_space: The settings that are the same in all trials, as the Tuner has them. Tune does
            not save settings that are not plain data, such as callbacks, and a resumed run needs
            them.
    """

    def __init__(
        self,
        search: Search,
        folder: str | Path,
        check: Callable[[Mapping[str, Any]], None],
        param_space: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(metric=search.metric, mode=search.mode)
        self._search, self._check = search, check
        self.param_space = dict(param_space or {})
        self._distributions, self._values = _distributions(search.space)
        self._good = _GoodTrials()
        self._random = optuna.samplers.RandomSampler(seed=search.seed)
        self._tpe = optuna.samplers.TPESampler(
            n_startup_trials=1, gamma=self._good, seed=search.seed
        )
        self._numbers: dict[str, int] = {}  # in the study, by Tune's trial id
        self._last: dict[str, float] = {}  # value of the metric, by Tune's trial id
        self.move_to(folder)

    def move_to(self, folder: str | Path) -> None:
        """Says where the run's folder is."""
        self._file = Path(folder, FILE)
        self._study: optuna.Study | None = None

    @property
    def study(self) -> optuna.Study:
        """The study; it is made when it is first needed."""
        if self._study is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._study = optuna.create_study(
                storage=_storage(self._file),
                study_name=_NAME,
                direction="maximize" if self._search.mode == "max" else "minimize",
                load_if_exists=True,
            )
        return self._study

    @override(Searcher)
    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        ended = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        self._good.num_ended = len(ended)
        self.study.sampler = self._tpe if len(ended) >= _STARTUP else self._random
        for _ in range(_ATTEMPTS):
            trial = self.study.ask(self._distributions)
            drawn = unflatten_dict(
                {name: self._values[name].get(x, x) for name, x in trial.params.items()}
            )
            try:
                self._check(drawn)
            except ValueError as error:
                trial.set_user_attr("invalid", str(error))
                self.study.tell(trial, state=TrialState.PRUNED)
                continue
            trial.set_user_attr(_TRIAL, trial_id)
            self._numbers[trial_id] = trial.number
            return drawn
        print("the search ends, since it finds no more valid combinations", flush=True)
        return Searcher.FINISHED

    @override(Searcher)
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        # An iteration in which no episode ended has no mean return.
        value = result.get(self.metric)
        if isinstance(value, Real) and math.isfinite(value):
            self._last[trial_id] = float(value)

    @override(Searcher)
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.on_trial_result(trial_id, result or {})
        value, number = self._last.get(trial_id), self._numbers[trial_id]
        known = self.study.get_trials(deepcopy=False)[number]
        if error or value is None:
            self._fail(number)
        elif known.state == TrialState.FAIL:  # a resumed run has trained it again
            self.study.add_trial(
                optuna.trial.create_trial(
                    params=known.params,
                    distributions=known.distributions,
                    user_attrs=known.user_attrs,
                    value=value,
                )
            )
        else:  # after a kill, a trial may end a second time
            self.study.tell(number, value, skip_if_finished=True)

    def _fail(self, number: int) -> None:
        self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    @override(Searcher)
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(
            pickle.dumps((self._good, self._random, self._tpe, self._numbers, self._last))
        )

    @override(Searcher)
    def restore(self, checkpoint_path: str) -> None:
        saved = pickle.loads(Path(checkpoint_path).read_bytes())
        self._good, self._random, self._tpe, self._numbers, self._last = saved
        self._study = None
        # Tune has no trial for what was asked after it had saved its state for the last time.
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if trial.number not in self._numbers.values():
                self._fail(trial.number)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_study": None}


def best_trial(folder: str | Path) -> tuple[str, float] | None:
    """Tune's id of a search's best trial, and its value; None if no trial has one.

    Args:
        folder: The run's folder.
    """
    study = _load(folder)
    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        return None
    return study.best_trial.user_attrs[_TRIAL], study.best_value


def importances(folder: str | Path) -> dict[str, float]:
    """How much each setting mattered to a search's results, the most important one first.

    Args:
        folder: The run's folder.

    Returns:
        Shares by setting, nested ones by path; they add up to 1. Empty if too few trials ended, or
        all equally well.
    """
    study = _load(folder)
    values = {trial.value for trial in study.get_trials(states=[TrialState.COMPLETE])}
    if len(values) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def count_pruned(folder: str | Path) -> int:
    """How many combinations of a search's settings were invalid."""
    study = _load(folder)
    return len(study.get_trials(deepcopy=False, states=[TrialState.PRUNED]))


def _load(folder: str | Path) -> optuna.Study:
    return optuna.load_study(storage=_storage(Path(folder, FILE)), study_name=_NAME)


def _storage(file: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(file)))


def _distributions(
    space: Mapping[str, Any],
) -> tuple[dict[str, BaseDistribution], dict[str, dict[Any, Any]]]:
    """Optuna's distributions by path, and what its values stand for, where it can't hold them."""
    domains = flatten_dict(dict(space), delimiter="/")
    values: dict[str, dict[Any, Any]] = {}
    for name, domain in domains.items():
        values[name] = {}
        if isinstance(domain, Categorical) and not all(
            isinstance(category, _PRIMITIVE) for category in domain.categories
        ):
            values[name] = {json.dumps(x, default=str): x for x in domain.categories}
            domains[name] = Categorical([*values[name]]).uniform()
    return OptunaSearch.convert_search_space(unflatten_dict(domains)), values
