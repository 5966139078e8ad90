"""Comparison of nested results and of weights."""

import numpy as np


def assert_equal(a, b, **tolerance):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], err_msg=key, **tolerance)


def check_same(a, b, place="result"):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), (place, a.keys() ^ b.keys())
        for key in a:
            check_same(a[key], b[key], f"{place}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            check_same(x, y, f"{place}[{k}]")
    else:
        np.testing.assert_array_equal(a, b, err_msg=place)


def timeless(x):
    """A result without what time and place have put into it."""
    places = {
        "config",
        "timers",
        "sample",
        "pid",
        "hostname",
        "node_ip",
        "date",
        "trial_id",
        "env_to_module",
    }
    places |= {"env_to_module_connector", "perf", "module_to_env_connector", "fault_tolerance"}
    if not isinstance(x, dict):
        return x
    return {
        key: timeless(value)
        for key, value in x.items()
        if key not in places
        and not any(
            word in str(key) for word in ("time", "throughput", "duration", "since_restore")
        )
    }
