"""The Optuna study of a search, in a file of the run's folder."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping
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
_ATTEMPTS = 1_000  # at settings that can be; Optuna learns to avoid the others
_PRIMITIVE = (type(None), bool, int, float, str)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class StudySearch(Searcher):
    """Asks an Optuna study for each trial's settings, and tells it how the trial ended.

    Ray's `OptunaSearch` does so, too. Here settings that can't be are pruned before they become a
    trial, a result may lack the metric, and after a kill no trial is left open in the study.

    Args:
        search: The search.
        folder: The run's folder; the study is a file in it.
        check: Is called with a trial's drawn settings; ValueError: they can't be.
        param_space: The settings that are the same in all trials, as the Tuner has them. Tune does
            not save those that are no data, such as callbacks, and a resumed run needs them.
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
        self._sampler = optuna.samplers.TPESampler(seed=search.seed)
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
                sampler=self._sampler,
                study_name=_NAME,
                direction="maximize" if self._search.mode == "max" else "minimize",
                load_if_exists=True,
            )
        return self._study

    @override(Searcher)
    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        for _ in range(_ATTEMPTS):
            trial = self.study.ask(self._distributions)
            drawn = unflatten_dict(
                {name: self._values[name].get(x, x) for name, x in trial.params.items()}
            )
            try:
                self._check(drawn)
            except ValueError as error:
                trial.set_user_attr("pruned because", str(error))
                self.study.tell(trial, state=TrialState.PRUNED)
                continue
            trial.set_user_attr(_TRIAL, trial_id)
            self._numbers[trial_id] = trial.number
            return drawn
        return Searcher.FINISHED

    @override(Searcher)
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        # An iteration in which no episode ended has no mean return.
        if math.isfinite(value := result.get(self.metric, math.nan)):
            self._last[trial_id] = value

    @override(Searcher)
    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.on_trial_result(trial_id, result or {})
        value = self._last.get(trial_id)
        # After a kill, a trial may end a second time.
        if error or value is None:
            self._tell(self._numbers[trial_id], state=TrialState.FAIL)
        else:
            self._tell(self._numbers[trial_id], value)

    def _tell(
        self, number: int, value: float | None = None, state: TrialState | None = None
    ) -> None:
        self.study.tell(number, value, state=state, skip_if_finished=True)

    @override(Searcher)
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(pickle.dumps((self._sampler, self._numbers, self._last)))

    @override(Searcher)
    def restore(self, checkpoint_path: str) -> None:
        self._sampler, self._numbers, self._last = pickle.loads(Path(checkpoint_path).read_bytes())
        self._study = None
        # Tune has no trial for what was asked after it had saved its state for the last time.
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if trial.number not in self._numbers.values():
                self._tell(trial.number, state=TrialState.FAIL)

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
    """How many combinations of a search's settings could not be."""
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
