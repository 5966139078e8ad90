"""What a setting may be, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.setting_values import format_value


@dataclass(frozen=True)
class Rule:
    """What a setting may be.

    Attributes:
        allows: Whether a value is valid.
        what: Completes the sentence "`setting` is ...".
        choices: Valid names, for "did you mean".
    """

    allows: Callable[[Any], bool]
    what: str
    choices: Sequence[str] = ()

    def check(self, setting: str, value: Any) -> None:
        """Raises ValueError if the value of a setting is not valid."""
        if not self.allows(value):
            hint = did_you_mean(value, self.choices) if isinstance(value, str) else ""
            raise invalid_setting(setting, self.what, value, hint)


def invalid_setting(setting: str, what: str, value: Any, hint: str = "") -> ValueError:
    """The error for a setting that is not what it has to be."""
    return ValueError(f"{setting} is {what}, not {format_value(value)}{hint}")
