"""What a report takes from the other files in a trial's folder."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rllib_ppg.plots.results import Trial

MAX_VIDEO_BYTES = 8 * 2**20
_MAX_EVALUATION_BYTES = 16 * 2**20
_TUNES = ("result.json", "params.json", "experiment_state-", "basic-variant-state-")
_VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}


@dataclass(frozen=True)
class Video:
    """A video in a trial's folder.

    Attributes:
        path: Its path.
        data: A `data:` URI with all of it; "" if it is larger than `MAX_VIDEO_BYTES`.
    """

    path: str
    data: str

    @property
    def is_animation(self) -> bool:
        """Whether it is a picture for a browser, without controls."""
        return self.path.endswith(".gif")


def newest_video(trial: Trial) -> list[Video]:
    """Returns the newest video in a trial's folder or its `videos/`, if there is one."""
    folder = trial.files
    places = [folder, *(below for below in folder.subfolders() if below.name == "videos")]
    videos = [file for place in places for file in place.files(*_VIDEOS)]
    if not videos:
        return []
    newest = max(videos, key=lambda file: (file.mtime_ns or 0, file.path))
    if newest.size > MAX_VIDEO_BYTES:
        return [Video(newest.path, "")]
    with folder.filesystem.open_input_stream(newest.path) as stream:
        text = base64.b64encode(stream.read()).decode()
    return [Video(newest.path, f"data:{_VIDEOS[f'.{newest.extension}']};base64,{text}")]


def versions(trial: Trial) -> str:
    """Returns what `config.yaml` says a trial ran with; "" if `rllib train` did not run it."""
    first = next(trial.files.lines("config.yaml"), "")
    return first.partition(", ")[2].strip() if first.startswith("# ") else ""


def command(trial: Trial) -> str:
    """Returns the command line that started a trial; "" if it was no command."""
    return trial.files.text("command.txt").strip()


@dataclass(frozen=True)
class Evaluation:
    """What `rllib evaluate --out FILE` has written.

    Attributes:
        file: Name of the file.
        env_steps: Env steps of the policy's training.
        results: Mean returns on each kind of levels.
    """

    file: str
    env_steps: int
    results: Mapping[str, Any]

    def means(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yields the levels, and the mean returns on them."""
        for levels, of_levels in self.results.items():
            yield levels.replace("_", " "), of_levels


def evaluations(trial: Trial) -> Iterator[Evaluation]:
    """Yields a trial's evaluations whose files are in its folder or the run's."""
    for folder in (trial.files, trial.files.parent):
        for file in folder.files(".json"):
            # Tune's are many and may be large; `result.json` has a result a line.
            if file.base_name.startswith(_TUNES) or file.size > _MAX_EVALUATION_BYTES:
                continue
            about = _read(folder.text(file.base_name))
            if not {"checkpoint", "env_steps_trained", "results"} <= about.keys():
                continue
            if folder == trial.files or f"/{trial.files.name}/" in str(about["checkpoint"]):
                yield Evaluation(file.base_name, about["env_steps_trained"] or 0, about["results"])


def _read(text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}
