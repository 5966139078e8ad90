"""Imports a Python file that is in no package, such as an experiment or a file with an env."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def import_file(path: Path, kind: str) -> ModuleType:
    """Runs a Python file and returns its module. What the file raises is raised here.

    Args:
        path: The file. Its folder is put on Python's path, as `python FILE` does.
        kind: What it holds, for the name of the module.
    """
    from ray import cloudpickle

    spec = importlib.util.spec_from_file_location(f"rllib_{kind}_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    # Other processes can't import this module, so its classes are pickled by value.
    cloudpickle.register_pickle_by_value(module)
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        spec.loader.exec_module(module)
    except BaseException:  # as `import` does
        del sys.modules[spec.name]
        raise
    return module
