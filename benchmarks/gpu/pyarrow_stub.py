"""Stands in for pyarrow on the GPU machine, where its 18 MiB would not fit into the archive.

Ray imports pyarrow, and uses it for data sets, checkpoints and Tune, which are no part of the GPU's
checks. Here every name is the same empty class. pandas takes version 0 for too old to use.
"""

import sys
from types import ModuleType
from typing import Any

__version__ = "0.0.0"


class Nothing:
    """Every class and function of pyarrow."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass


class Module(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


for _name in ("compute", "dataset", "fs", "json", "lib", "parquet", "types"):
    globals()[_name] = sys.modules[f"{__name__}.{_name}"] = Module(f"{__name__}.{_name}")
sys.modules[__name__].__class__ = Module
