"""The part of PPG's learner that is plumbing: RLlib's hooks, recovery, checkpoints, objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ObjectLostError
from ray.rllib.core import ALL_MODULES
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER, Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    WEIGHTS_SEQ_NO,
)
from ray.rllib.utils.typing import ModuleID, ResultDict
from torch import Tensor

from rllib_ppg.checkpoint import rng_state
from rllib_ppg.data.replay import ReplayBlock
from rllib_ppg.envs.spaces import num_pixels
from rllib_ppg.learning import precision
from rllib_ppg.learning.collectives import LearnerCollective
from rllib_ppg.learning.trained_module import TrainedModule
from rllib_ppg.resources.cpu import keep_freed_memory, use_idle_cpu_threads

VALUE_OPTIMIZER = "value"
AUX_OPTIMIZER = "aux"


class BaseLearner(TorchLearner):
    """A learner whose phases the driver calls one by one.

    Attributes:
        collective: The learners of the run.
        trained: The modules in training, by id.
        aux_precision: Precision of the networks in the auxiliary phase.
    """

    collective: LearnerCollective
    aux_precision: str
    trained: dict[ModuleID, TrainedModule]

    @override(TorchLearner)
    def build(self) -> None:
        config = self.config
        self.collective = LearnerCollective(self.distributed, config.collective_timeout_s)
        self._save_error: OSError | None = None
        super().build()
        self.aux_precision = precision.choose(config.aux_precision, self.collective, self._device)
        precision.warn_if_emulated(self.aux_precision, self._device)
        keep_freed_memory()
        modules = {
            module_id: self.module[module_id].unwrapped()
            for module_id in self.module.keys()  # noqa: SIM118 (iterating gives no ids)
            if config.trains(module_id)
        }
        if any(num_pixels(module.observation_space) for module in modules.values()):
            use_idle_cpu_threads(config, config.num_learners)  # small vectors gain nothing
        self.trained = {
            module_id: TrainedModule(
                module_id, module, config.get_config_for_module(module_id), self._device
            )
            for module_id, module in modules.items()
        }

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: ModuleID, config: Any = None) -> None:
        """Makes the Adams: policy phase, value epochs if there are any, auxiliary phase.

        Each holds all parameters. A step leaves alone what its loss does not reach, since those
        gradients are None. The moments of the auxiliary Adam are kept from phase to phase.
        """
        lrs = {DEFAULT_OPTIMIZER: config.lr}
        if config.has_value_epochs:
            lrs[VALUE_OPTIMIZER] = config.lr
        if config.has_aux_phase:
            lrs[AUX_OPTIMIZER] = config.aux_lr
        module = self.module[module_id]
        params = self.get_parameters(module)
        for name, lr in lrs.items():
            self.register_optimizer(
                module_id=module_id,
                optimizer_name=name,
                # With names, by which a checkpoint's moments find their parameters.
                optimizer=torch.optim.Adam([*module.named_parameters()], fused=True),
                params=params,
                lr_or_lr_schedule=lr,
            )

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        # No DDP: the losses of each phase reach different parameters, which DDP rejects or waits
        # for. What remains of its work is to start from equal weights.
        for module_id in self.module.keys():  # noqa: SIM118
            module = self.module[module_id]
            for tensor in (*module.parameters(), *module.buffers()):
                self.collective.copy_from_first(tensor.data)

    @override(Learner)
    def update(self, *args: Any, **kwargs: Any) -> ResultDict:
        raise TypeError("PPGTorchLearner has no update(): call policy_phase() and aux_epoch()")

    @override(Learner)
    def compute_loss_for_module(self, **kwargs: Any) -> Tensor:
        raise TypeError("PPGTorchLearner computes its losses within its phases")

    def set_observation_filter(
        self, module_id: ModuleID, mean: np.ndarray, std: np.ndarray
    ) -> None:
        """Sets the statistics of a module's observation filter, each of an observation's shape."""
        observation_filter = self.trained[module_id].module.observation_filter
        observation_filter.mean.copy_(torch.from_numpy(mean))
        observation_filter.std.copy_(torch.from_numpy(std))
        self._weights_seq_no += 1

    def set_lr(self, env_steps: int, module_id: ModuleID | None = None) -> None:
        """Sets the learning rates that the config gives for `env_steps`, of one module or of all.

        At the start of a run the optimisers have their rates, and this would round them to float32.
        """
        for trained in self.trained if module_id is None else [module_id]:
            for _, optimizer in self.get_optimizers_for_module(trained):
                if schedule := self._optimizer_lr_schedules.get(optimizer):
                    self._set_optimizer_lr(optimizer, lr=schedule.update(timestep=env_steps))

    def _restart_time_of_adams(self, module_id: ModuleID) -> None:
        """Makes the policy phase's Adams count their steps from 0; their moments stay."""
        for name, optimizer in self.get_optimizers_for_module(module_id):
            if not name.endswith(AUX_OPTIMIZER):
                for state in optimizer.state.values():
                    state["step"].zero_()

    def _reduced_metrics(self, module_id: ModuleID, metrics: dict[str, float]) -> ResultDict:
        for name, value in metrics.items():
            self.metrics.log_value((module_id, *name.split("/")), value, window=1)
        return self.metrics.reduce()

    def _log_steps(self, module_id: ModuleID, steps: int) -> None:
        for key in (
            (module_id, NUM_MODULE_STEPS_TRAINED),
            (ALL_MODULES, NUM_MODULE_STEPS_TRAINED),
            (ALL_MODULES, NUM_ENV_STEPS_TRAINED),
        ):
            self.metrics.log_value(key, steps, reduce="sum")
        for key in (
            (module_id, NUM_MODULE_STEPS_TRAINED_LIFETIME),
            (ALL_MODULES, NUM_MODULE_STEPS_TRAINED_LIFETIME),
            (ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME),
        ):
            self.metrics.log_value(key, steps, reduce="lifetime_sum", with_throughput=True)

    # -- State ---------------------------------------------------------------------------------

    @override(TorchLearner)
    def get_state(
        self, components: Any = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        state["aux_precision"] = self.aux_precision
        if self._check_component("averages", components, not_components):
            state["averages"] = {m: trained.get_averages() for m, trained in self.trained.items()}
        return state

    @override(Learner)
    def set_state(self, state: dict[str, Any]) -> None:
        if self.config.aux_precision == precision.AUTO and "aux_precision" in state:
            self.aux_precision = state["aux_precision"]
            precision.warn_if_emulated(self.aux_precision, self._device)
        if WEIGHTS_SEQ_NO in state:
            self._weights_seq_no = 0  # so that RLlib also takes an older state
        super().set_state(state)
        for module_id, trained in self.trained.items():
            trained.set_averages(state.get("averages", {}).get(module_id, {}))
        # A checkpoint has moments in C order. Channels-last weights are not, and the fused Adam
        # goes through weights and moments in the order of memory.
        for optimizer in self._named_optimizers.values():
            for p, moments in optimizer.state.items():
                for key, x in moments.items():
                    if isinstance(x, Tensor) and x.shape == p.shape:
                        moments[key] = torch.empty_like(p).copy_(x)

    @override(TorchLearner)
    def restore_from_path(self, path: Any, *, component: Any = None, **kwargs: Any) -> None:
        super().restore_from_path(path, component=component, **kwargs)
        if component is not None:  # weights alone, perhaps
            for trained in self.trained.values():
                trained.set_averages({})

    @override(TorchLearner)
    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        # For an optimiser that only the other settings have (the value Adam, the auxiliary one),
        # RLlib would configure all optimisers again, and lose those already loaded.
        ours = {
            name: {**x, "state": _moments_by_name(x["state"], self._named_optimizers[name])}
            for name, x in state.items()
            if name in self._named_optimizers
        }
        super()._set_optimizer_state(ours)

    @override(TorchLearner)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Writes the learner's part of a checkpoint; `check_saved` raises what went wrong.

        RLlib calls this in a way that kills a learner which raises, and does not tell the driver.
        """
        self._save_error = None
        try:
            return str(super().save_to_path(path, **kwargs))
        except OSError as e:
            self._save_error = e
            return str(path)

    def check_saved(self) -> None:
        """Raises the error of the last `save_to_path`, such as a full disk."""
        error, self._save_error = self._save_error, None
        if error:
            raise error

    def network_shapes(self) -> dict[ModuleID, dict[str, list[int]]]:
        """Shape of each parameter and buffer, by module and name."""
        return {
            module_id: {name: list(x.shape) for name, x in module.unwrapped().state_dict().items()}
            for module_id, module in self.module.items()
        }

    def get_exact_state(self) -> dict[str, Any]:
        """State of this learner alone: random numbers, and recurrent states of its rows."""
        carried = {m: t.vf_states.get_state() for m, t in self.trained.items() if t.vf_states}
        return {"random_numbers": rng_state.get_state(), "vf_states": carried}

    def set_exact_state(
        self, state: dict[str, Any] | None, vf_states: Sequence[dict[str, Any]]
    ) -> None:
        """Restores what `get_exact_state` returned.

        Args:
            state: That of this learner; None if there was no such learner.
            vf_states: `vf_states` of all learners: its rows may have been another one's.
        """
        if state is not None:
            rng_state.set_state(state["random_numbers"])
        for module_id, trained in self.trained.items():
            if trained.vf_states is not None:
                trained.vf_states.set_states([x.get(module_id, {}) for x in vf_states])

    def get_recovery_state(self, whole: bool) -> tuple[str, dict[str, Any]]:
        """This learner's node id and, as an object of its own, a state for `set_recovery_state`.

        Args:
            whole: Whether to include weights and optimisers, which all learners share.
        """
        state = {"exact": self.get_exact_state()}
        if whole:
            state["learner"] = self.get_state()
        return ray.get_runtime_context().get_node_id(), state

    def set_recovery_state(self, first: dict[str, Any], own: dict[str, Any]) -> None:
        """Restores the recovery state of the first learner and of this one."""
        self.set_state(first["learner"])
        self.set_exact_state(own["exact"], [own["exact"]["vf_states"]])

    # -- Objects on this node ------------------------------------------------------------------

    def fetch(self, rollouts: Sequence[ray.ObjectRef]) -> list[int]:
        """Copies rollouts to this node; returns the indices of those that are lost.

        A rollout that does not arrive counts as lost: Ray waits forever for a spilled object whose
        file is gone.
        """
        refs = list(rollouts)
        # Before the driver gives up a learner that is `collective_timeout_s` behind the others.
        timeout = self.config.collective_timeout_s / 2
        _, late = ray.wait(refs, num_returns=len(refs), timeout=timeout)  # all at once
        lost = []
        for i, rollout in enumerate(refs):
            try:
                if rollout in late:
                    lost.append(i)
                else:
                    ray.get(rollout)
            except ObjectLostError:
                lost.append(i)
        return lost

    def store_block(self, block: ReplayBlock) -> ReplayBlock:
        """Returns a restored replay block, so that its object lies on this node."""
        return block


def _moments_by_name(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A saved state for the parameters that the optimizer has; heads may come and go."""
    groups = saved["param_groups"], optimizer.param_groups
    if any(len(g) != 1 or "param_names" not in g[0] for g in groups):
        return saved  # of a learner class with optimizers of its own
    (group,), here = saved["param_groups"], optimizer.param_groups[0]["param_names"]
    place = {name: i for i, name in enumerate(group["param_names"])}
    moments = {
        i: saved["state"][place[name]]
        for i, name in enumerate(here)
        if place.get(name) in saved["state"]
    }
    group = {**group, "params": [*range(len(here))], "param_names": here}
    return {"state": moments, "param_groups": [group]}
