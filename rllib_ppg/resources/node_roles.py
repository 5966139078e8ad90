"""Placement of processes on a cluster whose nodes have roles.

The files in `cluster/` set up such clusters. Custom resources tell a node's role: the head offers
`ppg_roles`, nodes for learners offer `ppg_learner`, nodes for env runners `ppg_env_runner`.
Learners and the main process go to learner nodes. The main process owns the objects of the replay
list and reads them for a checkpoint, so it should be where they are, and not on a machine that may
be preempted. Env runners go to env-runner nodes, which may be preempted.
"""

from __future__ import annotations

from collections import Counter

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

# Offered by the head, as nodes of the other roles may start only when they are needed.
ROLES = "ppg_roles"
LEARNER = "ppg_learner"
ENV_RUNNER = "ppg_env_runner"

# The role of each kind of process, by the setting of its custom resources.
ROLE_OF = {
    "custom_resources_for_main_process": LEARNER,
    "custom_resources_per_learner": LEARNER,
    "custom_resources_per_env_runner": ENV_RUNNER,
}


def with_node_roles(config: AlgorithmConfig) -> AlgorithmConfig:
    """Returns the config for the running cluster, in which each process asks for its role.

    On a cluster without roles no process asks for one, even if the config comes from a checkpoint
    of a cluster with roles.

    Args:
        config: Settings of a run.
    """
    has_roles = ROLES in ray.cluster_resources()
    placed = config.copy(copy_frozen=False)
    for setting, role in ROLE_OF.items():
        setattr(placed, setting, _with_role_resource(getattr(config, setting), role, has_roles))
    runners = "custom_resources_per_env_runner"
    overrides = placed.evaluation_config or {}
    if runners in overrides:
        placed.evaluation_config = {
            **overrides,
            runners: _with_role_resource(overrides[runners], ENV_RUNNER, has_roles),
        }
    placed.freeze()
    return placed


def _with_role_resource(
    resources: dict[str, float] | None, role: str, has_roles: bool
) -> dict[str, float]:
    others = {name: n for name, n in (resources or {}).items() if name != role}
    return others | ({role: 1} if has_roles else {})


def learner_store_bytes() -> float:
    """Bytes of the object stores that can hold a replay list: those of the learners' nodes."""
    has_roles = ROLES in offered(None)
    return offered(LEARNER if has_roles else None).get("object_store_memory", 0)


def offered(role: str | None) -> Counter[str]:
    """Total resources of the nodes with a role, by name; None: of all nodes."""
    resources: Counter[str] = Counter()
    for node in ray.nodes():
        if node["Alive"] and (role is None or role in node["Resources"]):
            resources.update(node["Resources"])
    return resources
