"""Whether all nodes of a cluster see the folder that a run writes its results to."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rllib_ppg.resources import has_autoscaler

_TIMEOUT_S = 60.0
_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "f2fs")


def check_shared(path: str) -> None:
    """Checks that no node of the running cluster would write results to a disk of its own.

    Checkpoints are written by a trial's process, wherever that is, and Ray finds out about its
    disk only when it saves the first one.

    Args:
        path: Where the results go: an absolute path, or a URI, which is taken to be in order.

    Raises:
        ValueError: The nodes have not the same folder there.
    """
    if "://" in path:
        return
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) > 1:
        blind = _nodes_that_miss_a_file(path, list(nodes))
        if blind:
            names = ", ".join(sorted({nodes[node] for node in blind}))
            raise ValueError(_sentence(path, f"and not the same folder on all nodes: {names}"))
    elif has_autoscaler() and _file_system(path) in _LOCAL:
        raise ValueError(_sentence(path, "and nodes that are added would have one of their own"))


def _sentence(path: str, why: str) -> str:
    return (
        f"results would go to {path}, a local disk {why}; give a place that all nodes share, as "
        "in --storage-path s3://bucket/folder, gs://bucket/folder or a folder on NFS"
    )


def _nodes_that_miss_a_file(path: str, nodes: list[str]) -> list[str]:
    """Has the first node write a file, and returns those that do not find it."""
    first, *others = nodes
    file = f"{path}/.{uuid.uuid4().hex}"

    def on(node: str, function: object) -> ray.ObjectRef:
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        return ray.remote(num_cpus=0, scheduling_strategy=strategy)(function).remote()

    def write() -> None:
        Path(path).mkdir(parents=True, exist_ok=True)
        Path(file).touch()

    # What is defined here travels by value: nodes need not have this package for it.
    ray.get(on(first, write), timeout=_TIMEOUT_S)
    try:
        seen = ray.get([on(n, lambda: os.path.exists(file)) for n in others], timeout=_TIMEOUT_S)
    finally:
        ray.get(on(first, lambda: os.remove(file)), timeout=_TIMEOUT_S)
    return [node for node, found in zip(others, seen, strict=True) if not found]


def _file_system(path: str) -> str:
    """Returns the type of the file system that a path is on, as in "ext4"; Linux only."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        mounts[place.encode().decode("unicode_escape")] = kind
    parents = [path, *map(str, Path(path).parents)]
    return next(mounts[parent] for parent in parents if parent in mounts)
