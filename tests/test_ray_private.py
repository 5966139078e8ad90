"""Ray's private names that the package relies on are still there, with the arguments it gives."""

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import ray

import rllib_ppg

ROOT = Path(rllib_ppg.__file__).parents[1]
PACKAGES = ("rllib_ppg", "rllib_ppg_cli")

RLLIB = "ray.rllib"
CONFIG = f"{RLLIB}.algorithms.algorithm_config:AlgorithmConfig"
ENV_RUNNER = f"{RLLIB}.env.single_agent_env_runner:SingleAgentEnvRunner"
LEARNER = f"{RLLIB}.core.learner.torch.torch_learner:TorchLearner"
LEARNER_GROUP = f"{RLLIB}.core.learner.learner_group:LearnerGroup"
RL_MODULE = f"{RLLIB}.core.rl_module.torch.torch_rl_module:TorchRLModule"
CATALOG = f"{RLLIB}.algorithms.ppo.ppo_catalog:PPOCatalog"
STORAGE = "ray.train._internal.storage:StorageContext"

# Called in `ray_private.py`. Methods and functions have their arguments.
CALLED = [
    ("ray.actor:ActorHandle", "_actor_id", None),
    ("ray.experimental.internal_kv", "_internal_kv_get", ["key", "namespace"]),
    ("ray.train._internal.backend_executor:BackendExecutor", "_resources_per_worker", None),
    ("ray.train._internal.checkpoint_manager", "_CheckpointManager", ["checkpoint_config"]),
    (
        "ray.train._internal.checkpoint_manager:_CheckpointManager",
        "register_checkpoint",
        ["self", "checkpoint_result"],
    ),
    ("ray.train._internal.session", "_TrainingResult", ["checkpoint", "metrics"]),
    ("ray.tune.experiment:Trial", "_restore_checkpoint_result", None),
    ("ray.tune.experiment:Trial", "invalidate_json_state", ["self"]),
    ("ray.tune.experiment.trial:_TrainingRunMetadata", "checkpoint_manager", None),
    ("ray.tune.experiment.trial:_TrainingRunMetadata", "invalidate_cache", ["self"]),
    ("ray.tune:Trainable", "_last_result", None),
    ("ray.tune:Trainable", "_storage", None),
    ("ray.tune:Tuner", "_local_tuner", None),
    ("ray.tune.impl.tuner_internal:TunerInternal", "get_run_config", ["self"]),
    ("ray.tune.registry:_Registry", "contains", ["self", "category", "key"]),
    ("ray.tune.registry:_Registry", "get", ["self", "category", "key"]),
    ("ray.tune.registry", "_global_registry", None),
    (STORAGE, "_check_validation_file", ["self"]),
    (STORAGE, "_update_checkpoint_index", ["self", "metrics"]),
    (STORAGE, "persist_artifacts", ["self", "force"]),
    (
        f"{RLLIB}.connectors.env_to_module.mean_std_filter:MeanStdFilter",
        "_update_stats",
        None,
    ),
    (f"{RLLIB}.env.env_runner_group:EnvRunnerGroup", "_ignore_ray_errors_on_env_runners", None),
    (f"{RLLIB}.env.env_runner_group:EnvRunnerGroup", "_worker_manager", None),
    (f"{RLLIB}.utils.metrics.metrics_logger:MetricsLogger", "_threading_lock", None),
    (CONFIG, "_env_to_module_connector", None),
    (CONFIG, "_learner_class", None),
    (CONFIG, "_model_config", None),
    (CONFIG, "_module_to_env_connector", None),
    (CONFIG, "_rl_module_spec", None),
    (CONFIG, "_train_batch_size_per_learner", None),
    (CONFIG, "_use_msgpack_checkpoints", None),
    (ENV_RUNNER, "_done_episodes_for_metrics", None),
    (ENV_RUNNER, "_env_to_module", None),
    (ENV_RUNNER, "_ongoing_episodes_for_metrics", None),
    (ENV_RUNNER, "_reset_envs_and_episodes", ["self", "explore"]),
    (ENV_RUNNER, "_weights_seq_no", None),
    (LEARNER_GROUP, "_backend_executor", None),
    (LEARNER_GROUP, "_is_shut_down", None),
    (LEARNER_GROUP, "_learner", None),
    (LEARNER_GROUP, "_module_spec", None),
    (LEARNER_GROUP, "_workers", None),
    (RL_MODULE, "_forward_exploration", ["self", "batch", "kwargs"]),
    (RL_MODULE, "_forward_inference", ["self", "batch", "kwargs"]),
    (RL_MODULE, "_forward_train", ["self", "batch", "kwargs"]),
]

# Not Ray's: documented names of Python, gymnasium's, and torch's (how often a tensor was written
# to, whether distributions check their arguments, and functions of lists of tensors).
OTHERS = {
    "_asdict", "_exit", "_foreach_copy_", "_foreach_lerp_", "_state", "_validate_args", "_version",
}  # fmt: skip

# Overridden in PPG's classes, or used there through `self`.
INHERITED = [
    (CATALOG, "_action_dist_class_fn", None),
    (CATALOG, "_determine_components_hook", ["self"]),
    (CATALOG, "_encoder_config", None),
    (CATALOG, "_get_dist_cls_from_action_space", ["action_space", "framework"]),
    (CATALOG, "_model_config_dict", None),
    (
        CATALOG,
        "_get_encoder_config",
        ["observation_space", "model_config_dict", "action_space"],
    ),
    (CONFIG, "_dont_auto_sync_env_runner_states", None),
    (CONFIG, "_learner_connector", None),
    (CONFIG, "_model_config_auto_includes", None),
    (CONFIG, "_torch_grad_scaler_class", None),
    (CONFIG, "_torch_lr_scheduler_classes", None),
    (CONFIG, "_validate_config", None),
    (CONFIG, "_value_error", ["self", "errmsg"]),
    (ENV_RUNNER, "_callbacks", None),
    (ENV_RUNNER, "_device", None),
    (ENV_RUNNER, "_increase_sampled_metrics", ["self", "num_steps", "num_episodes_completed"]),
    (ENV_RUNNER, "_log_episode_metrics", ["self", "length", "ret", "sec"]),
    (ENV_RUNNER, "_needs_initial_reset", None),
    (ENV_RUNNER, "_ongoing_episodes", None),
    (ENV_RUNNER, "_seed", None),
    (ENV_RUNNER, "_shared_data", None),
    (LEARNER, "_check_component", ["self", "name", "components", "not_components"]),
    (LEARNER, "_device", None),
    (LEARNER, "_make_modules_ddp_if_necessary", ["self"]),
    (LEARNER, "_named_optimizers", None),
    (LEARNER, "_optimizer_lr_schedules", None),
    (LEARNER, "_set_optimizer_lr", ["optimizer", "lr"]),
    (LEARNER, "_set_optimizer_state", ["self", "state"]),
    (LEARNER, "_weights_seq_no", None),
    (RL_MODULE, "_forward", ["self", "batch", "kwargs"]),
    (
        f"{RLLIB}.algorithms.algorithm:Algorithm",
        "_compile_iteration_results",
        ["self", "train_results", "eval_results"],
    ),
    ("ray.tune.logger:CSVLoggerCallback", "_restore_from_remote", ["self", "file_name", "trial"]),
]


@pytest.mark.parametrize(
    ("owner", "name", "arguments"),
    [pytest.param(*entry, id=f"{entry[0].rpartition(':')[2]}.{entry[1]}") for entry in CALLED]
    + [pytest.param(*entry, id=f"{entry[0].rpartition(':')[2]}.{entry[1]}") for entry in INHERITED],
)
def test_ray_still_has_the_private_name(owner, name, arguments):
    where, _, cls = owner.partition(":")
    holder = importlib.import_module(where)
    holder = getattr(holder, cls) if cls else holder
    missing = f"Ray {ray.__version__} has no {owner}.{name}, which rllib_ppg uses"
    assert _has(holder, name), missing
    if arguments is not None:
        # Ray adds `_ray_trace_ctx` to the methods of a class once it has made an actor of it.
        given = inspect.signature(getattr(holder, name)).parameters
        found = [argument for argument in given if argument != "_ray_trace_ctx"]
        changed = f"Ray {ray.__version__}'s {owner}.{name} takes {found}, not {arguments}"
        assert found == arguments, changed


def test_no_other_private_name_of_ray_is_used():
    """Names with an underscore that the package uses and does not define are in a list above."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    trees = {file: ast.parse(file.read_text()) for file in files}
    own = set().union(*map(_defined, trees.values()))
    called, inherited = ({name for _, name, _ in names} for names in (CALLED, INHERITED))
    found = []
    for file, tree in trees.items():
        for line, name, is_own_object in _private_uses(tree):
            known = inherited | own if is_own_object else own - called
            if file.name != "ray_private.py" and name not in known | OTHERS:
                found.append(f"{file.relative_to(ROOT)}:{line} {name}")
    assert not found, "these belong in ray_private.py, or in a list of this test"


def _has(holder: object, name: str) -> bool:
    """Whether a module or class has a name, also one that its `__init__` sets."""
    if hasattr(holder, name):
        return True
    if isinstance(holder, ModuleType):
        return False
    return any(
        f"self.{name}" in inspect.getsource(cls) or name in getattr(cls, "__annotations__", {})
        for cls in holder.__mro__
        if cls.__module__.startswith("ray.")
    )


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _private_uses(tree: ast.AST) -> list[tuple[int, str, bool]]:
    """Line, name, and whether the object is the class's own: `self`, `cls`, `super()`."""
    uses = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            of = ast.unparse(node.value)
            uses.append((node.lineno, node.attr, of in ("self", "cls", "super()")))
        elif isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            of_ray = parts[0] == "ray"
            uses += [(node.lineno, p, False) for p in parts if of_ray and _is_private(p)]
    return uses
