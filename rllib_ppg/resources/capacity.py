"""Checks whether a run fits the cluster, before anything waits for missing resources."""

from __future__ import annotations

import json

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ppg.ray_private import autoscaler_status
from rllib_ppg.resources.node_roles import ENV_RUNNER, LEARNER, learner_store_bytes, offered

_READONLY_NODE_TYPE = "node_"
# Label of nodes that `ray up` or KubeRay started.
_NODE_GROUP = "ray.io/node-group"


def check_resources(
    config: AlgorithmConfig, bundles: list[dict[str, float]], replay_bytes: int
) -> None:
    """Checks that the cluster has what a run needs, in total and on the nodes of each role.

    A cluster with an autoscaler may grow, so it is not checked.

    Args:
        config: Settings of the run.
        bundles: Resources of each process by name (CPU, GPU, ...), as in a placement group.
        replay_bytes: Size of a full replay list in bytes.

    Raises:
        ValueError: The run does not fit; the error names settings that do.
    """
    if has_autoscaler():
        return
    for role in (None, LEARNER, ENV_RUNNER):
        asking = [bundle for bundle in bundles if role is None or role in bundle]
        have = offered(role)
        # A missing role explains more than the CPUs that are missing with it.
        for name in sorted(set().union(*asking), key=lambda n: (n not in (LEARNER, ENV_RUNNER), n)):
            amount = sum(bundle.get(name, 0) for bundle in asking)
            if amount > have.get(name, 0):
                raise ValueError(_too_little(config, role, name, amount, have.get(name, 0)))
    store = learner_store_bytes()
    if replay_bytes > store and not config.replay_may_spill:
        fits = int(config.n_pi * store // replay_bytes)
        smaller = f"set n_pi={fits} or less" if fits else "use fewer envs"
        raise ValueError(
            f"the replay list takes {replay_bytes / 1e9:.1f} GB (n_pi={config.n_pi} iterations x "
            f"{config.batch_size:,} states) and the object store has {store / 1e9:.1f} GB: "
            f"{smaller}, start Ray with object_store_memory={replay_bytes * 5 // 4} or more, or "
            "set replay_may_spill=True to let Ray keep the rest on disk (less of it with "
            "replay_compression='lz4')"
        )


def _too_little(
    config: AlgorithmConfig, role: str | None, name: str, amount: float, have: float
) -> str:
    if name in (LEARNER, ENV_RUNNER):
        return (
            f"nodes of this cluster have roles, and {have:g} of {amount:g} places are there that "
            f"this run asks for by {name}; cluster/README.md says which nodes are to offer them"
        )
    whose = f"the nodes that offer {role} have" if role else "the cluster has"
    return (
        f"this run asks for {amount:g} {name}s ({config.num_env_runners} env runners x "
        f"{_per(config, 'env_runner', name)}, {config.num_learners} remote learners) and {whose} "
        f"{have:g}: {_fitting(config, name, amount, have)}"
    )


def has_autoscaler() -> bool:
    """Whether an autoscaler may add nodes to this cluster.

    Ray's second autoscaler writes no status, but labels nodes with their group. The first one
    writes a status even if it can't add nodes; each node then has a type that starts with "node_".
    """
    if any(_NODE_GROUP in node["Labels"] for node in ray.nodes() if node["Alive"]):
        return True
    status = autoscaler_status()
    if not status:
        return False
    nodes = (json.loads(status).get("autoscaler_report") or {}).get("active_nodes") or {}
    return not all(name.startswith(_READONLY_NODE_TYPE) for name in nodes)


def _per(config: AlgorithmConfig, what: str, name: str) -> str:
    return f"{getattr(config, f'num_{name.lower()}s_per_{what}', 0):g}"


def _fitting(config: AlgorithmConfig, name: str, amount: float, have: float) -> str:
    """Settings that fit: fewer env runners if their resources are missing, else fewer learners."""
    if name == "GPU" and not have and not config.num_gpus_per_env_runner:
        return "set num_gpus_per_learner=0 to train on CPUs"
    too_many = amount - have
    per_runner = getattr(config, f"num_{name.lower()}s_per_env_runner", 0)
    if per_runner and config.num_env_runners * per_runner > too_many:
        runners = config.num_env_runners - int(-(-too_many // per_runner))
        return f"set num_env_runners={runners} (and num_envs_per_env_runner to keep the batch)"
    if config.num_learners:
        return f"set num_learners=0 or num_{name.lower()}s_per_learner to what there is"
    return "set num_env_runners=0 to sample in the main process"
