"""Experiment files: how they are found, read and written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.import_file import import_file

SUFFIXES = (".yaml", ".yml", ".py")


def find_experiment_file(file: str | Path) -> Path:
    """Finds an experiment file.

    Args:
        file: Path, or the name of a shipped example with or without its suffix.

    Raises:
        ValueError: There is no such file and no such example.
    """
    path = Path(file).expanduser()
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ValueError(
                f"{file} is not an experiment file: its name must end in {', '.join(SUFFIXES)}"
            )
        return path
    examples = {example.stem: example for example in shipped_examples()}
    if path.name == str(file) and path.stem in examples and path.suffix in ("", *SUFFIXES):
        return examples[path.stem]
    raise ValueError(
        f"there is no experiment file {file}, and the shipped examples are "
        f"{', '.join(sorted(examples))}{did_you_mean(path.stem, examples)}"
    )


def shipped_examples() -> list[Path]:
    """The experiment files that come with this package."""
    package = Path(__file__).parents[1]
    # Inside the package if it is installed, next to it in a clone.
    places = [package / "tuned_examples", package.parent / "tuned_examples"]
    folder = next((place for place in places if place.is_dir()), places[0])
    return sorted(path for path in folder.glob("[!_]*") if path.suffix in SUFFIXES)


def import_experiment_file(path: Path) -> ModuleType:
    """Runs a Python file and returns its module.

    Raises:
        ValueError: The file raised an exception.
    """
    try:
        return import_file(path, "experiment")
    except Exception as error:
        raise ValueError(f"{path} raised {type(error).__name__}: {error}") from error


def parse_yaml(text: str, source: str) -> Any:
    """Parses YAML or JSON safely: no tag can run code.

    Args:
        text: YAML or JSON.
        source: Name of the text, for the error.

    Raises:
        ValueError: The text is neither.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass  # a YAML parser reads JSON too, except for tabs
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise ValueError(f"{source} is not valid YAML or JSON{where}: {problem}") from error


def dump_yaml(data: Any) -> str:
    """Writes data as YAML that `parse_yaml` reads."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """Reads 5e-4 as a number; in YAML 1.1 it is a string because it has no dot."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` reads as a number."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )
