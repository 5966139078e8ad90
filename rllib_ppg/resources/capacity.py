"""Says at once, and in one sentence, that a run does not fit the cluster it was started on."""

from __future__ import annotations

import json

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ppg.ray_private import autoscaler_status
from rllib_ppg.resources.node_roles import ENV_RUNNER, LEARNER, learner_store_bytes, offered

_READONLY_NODE_TYPE = "node_"
# A label of nodes that `ray up` or KubeRay has started.
_NODE_GROUP = "ray.io/node-group"


def check_resources(
    config: AlgorithmConfig, bundles: list[dict[str, float]], replay_bytes: int
) -> None:
    """Compares what a run needs with what the cluster has, in all and on nodes of each role.

    A cluster with an autoscaler may grow and is not judged by what it has now.

    Args:
        config: of the run; what can be changed is named from it.
        bundles: resources by name (CPU, GPU, ...) of each process, as of a placement group.
        replay_bytes: of a full replay list.

    Raises:
        ValueError: It does not fit; the sentence names settings that would.
    """
    if has_autoscaler():
        return
    for role in (None, LEARNER, ENV_RUNNER):
        asking = [bundle for bundle in bundles if role is None or role in bundle]
        have = offered(role)
        # A role that nobody offers says more than CPUs that are missing with it.
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
        f"{have:g}: {_fitting(config, name, amount - have)}"
    )


def has_autoscaler() -> bool:
    """Whether somebody may add nodes to this cluster.

    Ray's second autoscaler leaves no status, but it needs nodes to be labelled by their group. The
    first one has its monitor run also where nobody adds nodes; it then calls each a type of its
    own.
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


def _fitting(config: AlgorithmConfig, name: str, too_many: float) -> str:
    """The settings that would fit: fewer env runners if these are CPUs, fewer learners if not."""
    per_runner = getattr(config, f"num_{name.lower()}s_per_env_runner", 0)
    if per_runner and config.num_env_runners * per_runner > too_many:
        runners = config.num_env_runners - int(-(-too_many // per_runner))
        return f"set num_env_runners={runners} (and num_envs_per_env_runner to keep the batch)"
    if config.num_learners:
        return f"set num_learners=0 or num_{name.lower()}s_per_learner to what there is"
    return "set num_env_runners=0 to sample in the main process"
