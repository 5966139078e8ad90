"""Scripts behind the documentation's figures; run from the top of the repository."""

from typing import Any


def only_module(algorithm: Any) -> Any:
    """The driver's state of an algorithm's one module, with its replay list."""
    (module,) = algorithm.modules.values()
    return module
