"""A line about learning rates that a run outlasts: at 0, it learns nothing more."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

Schedule = list[list[float]]  # [env step, value]


def hint(config: Mapping[str, Any], env_steps: int) -> str | None:
    """Says so if `lr` or `aux_lr` is 0 in the last tenth or more of a run of so many env steps."""
    schedules: dict[str, Any] = {name: config.get(name) for name in ("lr", "aux_lr")}
    over = {name: it for name, it in schedules.items() if _ends(it) and it[-1][0] < 0.9 * env_steps}
    if not over:
        return None
    end = max(int(schedule[-1][0]) for schedule in over.values())
    options = (f"{name}={json.dumps(_stretched(it, env_steps))}" for name, it in over.items())
    return (
        f"{' and '.join(over)} {'are' if len(over) > 1 else 'is'} 0 after {end:,} env steps, and "
        f"nothing is learned from then on; a longer schedule: "
        f"{' '.join('--set ' + shlex.quote(option) for option in options)}"
    )


def _ends(schedule: Any) -> bool:
    return isinstance(schedule, list | tuple) and schedule[-1][1] == 0


def _stretched(schedule: Schedule, env_steps: int) -> Schedule:
    """The same schedule over so many env steps."""
    end = schedule[-1][0]
    return [[round(step / end * env_steps), value] for step, value in schedule]
