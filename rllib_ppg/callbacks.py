"""A hook for what RLlib has no name for: progress within an auxiliary phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.rllib.callbacks.callbacks import RLlibCallback

if TYPE_CHECKING:
    from rllib_ppg.ppg import PPG


class PPGCallback(RLlibCallback):
    """An `RLlibCallback` that hears of auxiliary epochs, too. Use it with `.callbacks(...)`."""

    def on_aux_epoch_end(
        self, *, algorithm: PPG, metrics_logger: Any, epoch: int, num_epochs: int
    ) -> None:
        """Called after each auxiliary epoch.

        Args:
            algorithm: the PPG that trains.
            metrics_logger: its metrics; what is logged here is in the iteration's results.
            epoch: epochs done of this auxiliary phase; 0 when it begins, after pi_old is computed.
            num_epochs: E_aux.
        """
