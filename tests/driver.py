"""What tests read of an algorithm's driver."""


def only_module(algo):
    """The driver's state of the one module: replay list, reward scale, observation statistics."""
    (module,) = algo.modules.values()
    return module
