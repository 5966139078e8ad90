"""Which node does what, on a cluster whose nodes have roles.

The files in `cluster/` make such clusters. A node says what it is for by custom resources: the head
offers `ppg_roles`, nodes for learners offer `ppg_learner`, those for env runners `ppg_env_runner`.
Then learners and the main process go to learner nodes. The main process owns the replay list's
objects, and reads them for a checkpoint: it is to be where they are, and not on a machine that may
be taken away. Env runners go to env-runner nodes, which may.
"""

from __future__ import annotations

from collections import Counter

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

# Of the head: whether nodes have roles at all. The others may be there only when they are needed.
ROLES = "ppg_roles"
LEARNER = "ppg_learner"
ENV_RUNNER = "ppg_env_runner"

# Each kind of actor's own resources, by the setting, and its role.
ROLE_OF = {
    "custom_resources_for_main_process": LEARNER,
    "custom_resources_per_learner": LEARNER,
    "custom_resources_per_env_runner": ENV_RUNNER,
}


def with_node_roles(config: AlgorithmConfig) -> AlgorithmConfig:
    """Returns the config as it is to run on this cluster: each actor asks for a node of its role.

    On a cluster without roles nothing asks for one, also if the config comes from a checkpoint of
    a cluster that had some.

    Args:
        config: of a run; Ray is running.
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
    """Bytes of the object stores in which a replay list can lie: those of the learners' nodes."""
    has_roles = ROLES in offered(None)
    return offered(LEARNER if has_roles else None).get("object_store_memory", 0)


def offered(role: str | None) -> Counter[str]:
    """What the nodes of a role offer in all, by the resource's name; None: what all nodes do."""
    resources: Counter[str] = Counter()
    for node in ray.nodes():
        if node["Alive"] and (role is None or role in node["Resources"]):
            resources.update(node["Resources"])
    return resources
