"""Checks that all nodes of a cluster see the folder of a run's results."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rllib_ppg.resources.capacity import has_autoscaler

_LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "f2fs")


def check_shared(path: str) -> None:
    """Checks that no node of the running cluster would write results to a local disk.

    The process of a trial, on any node, writes the checkpoints. Ray notices a local disk only when
    the first one is saved.

    Args:
        path: Path of the results; URIs are not checked.

    Raises:
        ValueError: The nodes do not share the folder, or a node does not answer.
    """
    if "://" in path:
        return
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) > 1:
        blind = _nodes_that_miss_a_file(path, nodes)
        if blind:
            names = ", ".join(sorted({nodes[node] for node in blind}))
            raise ValueError(_sentence(path, f"and not the same folder on all nodes: {names}"))
    elif has_autoscaler():
        (node,) = nodes
        if _ask(node, nodes[node], lambda: _file_system(path)) in _LOCAL:
            raise ValueError(_sentence(path, "and added nodes would have another one"))


def _sentence(path: str, why: str) -> str:
    return (
        f"results would go to {path}, a local disk {why}; give a place that all nodes share, as "
        "in --storage-path s3://bucket/folder, gs://bucket/folder or a folder on NFS"
    )


def _nodes_that_miss_a_file(path: str, nodes: dict[str, str]) -> list[str]:
    """Writes a file on the first node, and returns the nodes that do not find it."""
    first, *others = nodes
    file = f"{path}/.{uuid.uuid4().hex}"

    def write() -> None:
        Path(file).expanduser().parent.mkdir(parents=True, exist_ok=True)
        Path(file).expanduser().touch()

    _ask(first, nodes[first], write)
    try:
        # In parallel, since a node may have to install the run's environment, which takes minutes.
        found = {node: _call(node, lambda: Path(file).expanduser().exists()) for node in others}
        return [node for node, ref in found.items() if not _answer(ref, nodes[node])]
    finally:
        _ask(first, nodes[first], lambda: os.remove(Path(file).expanduser()))


def _ask(node: str, name: str, function: Callable[[], Any]) -> Any:
    """Calls a function on a node and waits for its result."""
    return _answer(_call(node, function), name)


def _call(node: str, function: Callable[[], Any]) -> ray.ObjectRef:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=strategy)(function).remote()


def _answer(ref: ray.ObjectRef, name: str) -> Any:
    """The result of a call on the node of this name.

    Raises:
        ValueError: The call raised, or the node is gone.
    """
    try:
        return ray.get(ref)
    except RayError as error:
        reason = str(getattr(error, "cause", None) or error).strip().splitlines()[-1]
        raise ValueError(
            f"node {name} could not check the folder of the results: {reason}"
        ) from error


def _file_system(path: str) -> str:
    """Type of the file system that holds a path, as in "ext4"; Linux only."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        mounts[place.encode().decode("unicode_escape")] = kind
    full = Path(path).expanduser()
    return next(mounts[str(parent)] for parent in (full, *full.parents) if str(parent) in mounts)
