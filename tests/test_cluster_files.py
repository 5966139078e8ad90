"""The cluster files: valid by Ray's and KubeRay's schemas, and true to each other and the package.

Nothing here starts a cluster. `nodes` says what Ray would make of each file's nodes: `ray start` is
a stand-in that notes its options, and Ray's own code reads them.
"""

import copy
import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv
from ray.scripts.scripts import start as ray_start

from benchmarks.scaling import Hardware, Run
from rllib_ppg.resources.node_roles import ENV_RUNNER, LEARNER, ROLES
from rllib_ppg_cli.train import experiment_from
from tests.support.command import parse

pytestmark = pytest.mark.unit

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
AWS, ONPREM, KUBERAY = FILES = ["ray-up-aws.yaml", "ray-up-onprem.yaml", "kuberay-rayjob.yaml"]
README = (CLUSTER / "README.md").read_text()
DOCKERFILE = (CLUSTER / "Dockerfile").read_text().replace("\\\n", "")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

OFFERS = {"head": {ROLES: 1}, "learner": {LEARNER: 1000}, "env_runner": {ENV_RUNNER: 1000}}
# The list of the paper's batch, for one learner or many, and docs/scaling.md's fifth more.
LEAST_STORE = 1.2 * Run(learners=1).store_bytes()
GiB = 2**30


@cache
def _read(name):
    return yaml.safe_load((CLUSTER / name).read_text())


def read(name):
    return copy.deepcopy(_read(name))


def launcher(name):
    return prepare_config(read(name))


@dataclass
class Node:
    """What Ray knows of a node when it has started."""

    options: dict  # of `ray start`
    cpus: int
    roles: dict
    store: int


def node(words, override=None):
    """Has Ray read the options of `ray start`, and the resources of a launcher's node type."""
    options = ray_start.make_context("ray start", list(words)).params  # a mistyped one: an error
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps(override or {}))
        spec = ResourceAndLabelSpec(
            num_cpus=options["num_cpus"],
            object_store_memory=options["object_store_memory"],
            resources=json.loads(options["resources"]),
        )
        spec._resolve_resources(is_head=options["head"], node_ip_address="192.0.2.1")
    roles = {name: n for name, n in spec.resources.items() if name.startswith("ppg_")}
    return Node(options, spec.num_cpus, roles, spec.object_store_memory)


def run_commands(commands, folder, gpu):
    """Runs a launcher's start commands; returns the options of the last `ray start`."""
    for name, body in {
        "ray": f'printf "%s\\0" "$@" > {folder}/options',
        "nvidia-smi": "echo 'GPU 0: a card'" if gpu else "echo 'no devices'; exit 9",
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "RAY_HEAD_IP": "192.0.2.10"}
    for command in commands:
        subprocess.run(["bash", "-c", command], env=env, check=True, capture_output=True)
    start, *words = (folder / "options").read_text().split("\0")[:-1]
    assert start == "start"
    return words


def groups():
    """Kubernetes' pod groups by role."""
    cluster = read(KUBERAY)["spec"]["rayClusterSpec"]
    by_name = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    head = cluster["headGroupSpec"]
    return {"head": head, "learner": by_name["learners"], "env_runner": by_name["env-runners"]}


def autoscaler():
    """The pods that the file asks for, as Ray's autoscaler understands it."""
    spec = read(KUBERAY)["spec"]["rayClusterSpec"]
    cluster = {"metadata": {"name": "x", "namespace": "y"}, "spec": spec}
    types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    names = {"head": "headgroup", "learner": "learners", "env_runner": "env-runners"}
    return {role: types[name] for role, name in names.items()}


@pytest.fixture
def nodes(request, tmp_path):
    """A file's nodes by role."""
    name = request.param
    if name == KUBERAY:  # KubeRay puts the values into a shell command as they are
        out = {}
        for role, group in groups().items():
            line = " ".join(f"--{key}={value}" for key, value in group["rayStartParams"].items())
            out[role] = node(["--head"] * (role == "head") + shlex.split(line))
        return out
    config = launcher(name)
    types = config["available_node_types"] if name == AWS else {}
    out = {}
    for role in OFFERS:
        commands = config[f"{'head' if role == 'head' else 'worker'}_start_ray_commands"]
        words = run_commands(commands, tmp_path, gpu=role == "learner")
        out[role] = node(words, types.get(role, {}).get("resources"))
    return out


in_each_file = pytest.mark.parametrize("nodes", FILES, indirect=True)


# -- Schemas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [AWS, ONPREM])
def test_launcher_file_is_valid(name):
    validate_config(launcher(name))


def test_machines_that_one_has_all_start():
    config = launcher(ONPREM)
    (kind,) = config["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(config["provider"]["worker_ips"]) > 1


def rayjob_schema():
    crd = yaml.safe_load((ROOT / "tests/data/kuberay_rayjob_crd.yaml").read_text())
    return jsonschema.Draft7Validator(crd["openAPIV3Schema"] | {"definitions": crd["definitions"]})


def test_rayjob_is_valid():
    rayjob_schema().validate(read(KUBERAY))


def test_schema_finds_each_mistyped_field_of_the_rayjob():
    free = {"rayStartParams", "nodeSelector", "limits", "requests"}
    schema, job = rayjob_schema(), read(KUBERAY)

    def mappings(value, name=None):
        if isinstance(value, dict) and name not in free:
            yield value
            for key, inner in value.items():
                yield from mappings(inner, key)
        elif isinstance(value, list):
            for inner in value:
                yield from mappings(inner)

    for mapping in mappings(job):
        for key in list(mapping):
            mapping[f"{key}x"] = mapping.pop(key)
            assert not schema.is_valid(job), key
            mapping[key] = mapping.pop(f"{key}x")
    assert schema.is_valid(job)


# -- Roles ---------------------------------------------------------------------------------------


@in_each_file
def test_each_node_offers_its_role_alone(nodes):
    assert {role: node.roles for role, node in nodes.items()} == OFFERS


@in_each_file
def test_head_has_no_cpus(nodes):
    assert nodes["head"].options["head"] and nodes["head"].cpus == 0
    assert nodes["learner"].cpus > 0 and nodes["env_runner"].cpus > 0


def test_autoscaler_knows_the_roles():
    types = launcher(AWS)["available_node_types"]
    for kinds in (types, autoscaler()):
        offers = {
            role: {k: n for k, n in kind["resources"].items() if k.startswith("ppg_")}
            for role, kind in kinds.items()
        }
        assert offers == OFFERS


def test_nodes_are_bounded_and_none_but_the_head_stays():
    config = launcher(AWS)
    validate_config(config)
    for kinds in (config["available_node_types"], autoscaler()):
        assert {kind["min_workers"] for kind in kinds.values()} == {0}
        assert kinds["head"]["max_workers"] == 0
        assert 8 <= kinds["learner"]["max_workers"] <= 16  # what README.md says the files are for
        assert 1 <= kinds["env_runner"]["max_workers"] <= 16
    workers = sum(kind["max_workers"] for kind in config["available_node_types"].values())
    assert config["max_workers"] == workers
    assert config["provider"]["cache_stopped_nodes"] is False
    spec = read(KUBERAY)["spec"]
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"]
    assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] > 0 == spec["backoffLimit"]


def test_only_env_runners_may_be_taken_away():
    types = launcher(AWS)["available_node_types"]
    market = {
        role: kind["node_config"].get("InstanceMarketOptions") for role, kind in types.items()
    }
    assert market == {"head": None, "learner": None, "env_runner": {"MarketType": "spot"}}
    for role, group in groups().items():
        pod = group["template"]["spec"]
        may_be_spot = role == "env_runner"
        for where in (pod["nodeSelector"], pod.get("tolerations")):
            assert ("spot" in json.dumps(where).lower()) == may_be_spot


def test_learners_have_a_gpu_and_the_others_none():
    gpus = {role: kind["resources"].get("GPU", 0) for role, kind in autoscaler().items()}
    assert gpus == {"head": 0, "learner": 1, "env_runner": 0}
    types = launcher(AWS)["available_node_types"]
    families = {role: kind["node_config"]["InstanceType"][0] for role, kind in types.items()}
    assert families == {"head": "m", "learner": "g", "env_runner": "c"}


# -- Memory and disks ----------------------------------------------------------------------------


@in_each_file
def test_learners_store_holds_the_replay_list(nodes):
    assert nodes["learner"].store >= LEAST_STORE
    assert nodes["head"].store is nodes["env_runner"].store is None  # a part of what there is


def shared_memory(options):
    (size,) = (o.removeprefix("--shm-size=") for o in options if o.startswith("--shm-size="))
    return int(size.removesuffix("g")) * GiB


def test_learners_store_fits_into_shared_memory_and_that_into_the_node():
    learner = launcher(AWS)["available_node_types"]["learner"]
    store = learner["resources"]["object_store_memory"]
    assert store <= shared_memory(learner["docker"]["worker_run_options"])
    of_machine = {"g6.4xlarge": 64 * GiB}[learner["node_config"]["InstanceType"]]
    assert store + learner["resources"]["memory"] <= of_machine
    assert shared_memory(launcher(ONPREM)["docker"]["run_options"]) >= LEAST_STORE
    group = groups()["learner"]
    pod = group["template"]["spec"]
    (size,) = (v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == "shm")
    assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
    store = int(group["rayStartParams"]["object-store-memory"])
    memory = pod["containers"][0]["resources"]["limits"]["memory"]
    assert store <= parse_quantity(size) <= 0.75 * float(parse_quantity(memory))


@in_each_file
def test_nodes_spill_to_a_disk(nodes, request):
    folders = {node.options["object_spilling_directory"] for node in nodes.values()}
    assert folders == {"/spill"}
    if request.node.callspec.params["nodes"] == KUBERAY:
        for group in groups().values():
            pod = group["template"]["spec"]
            assert {"name": "spill", "mountPath": "/spill"} in pod["containers"][0]["volumeMounts"]
            (disk,) = (v["emptyDir"] for v in pod["volumes"] if v["name"] == "spill")
            assert "medium" not in disk
    else:
        config = launcher(request.node.callspec.params["nodes"])
        (volume,) = (o for o in config["docker"]["run_options"] if o.endswith(":/spill"))
        outside = volume.removeprefix("--volume=").removesuffix(":/spill")
        (make,) = (c for c in config["initialization_commands"] if "mkdir" in c)
        assert shlex.split(make)[-1] == outside in make.split(" && ")[0]


def test_learner_pods_are_guaranteed():
    for container in groups()["learner"]["template"]["spec"]["containers"]:
        resources = container["resources"]
        assert resources["limits"] == resources["requests"]
        assert {"cpu", "memory"} <= set(resources["limits"])


def test_pods_share_image_account_and_mounts():
    pods = [group["template"]["spec"] for group in groups().values()]
    assert len({pod["serviceAccountName"] for pod in pods}) == 1
    assert len({container["image"] for pod in pods for container in pod["containers"]}) == 1
    for pod in pods:
        mounts = {m["name"] for container in pod["containers"] for m in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}


# -- Commands ------------------------------------------------------------------------------------


def parsed(command):
    program, *words = shlex.split(command)
    assert program == "rllib"
    return parse(shlex.join(words))


def test_rayjob_runs_a_shipped_experiment_that_fits():
    options = parsed(read(KUBERAY)["spec"]["entrypoint"])
    experiment = experiment_from(options)
    experiment.validate()
    assert options["ray_address"] == "auto"
    assert re.match("s3://|gs://", experiment.storage_path)
    config, kinds = experiment.config, autoscaler()
    assert config["num_learners"] <= kinds["learner"]["max_workers"]
    assert config["num_gpus_per_learner"] == 1
    cpus = kinds["env_runner"]["resources"]["CPU"] * kinds["env_runner"]["max_workers"]
    assert config["num_env_runners"] <= cpus
    assert config["num_env_runners"] * config["num_envs_per_env_runner"] == Run().rows
    assert options["checkpoint_freq"] % config["n_pi"] == 0


COMMANDS = re.findall(r"^    (rllib .*?)(?:  +#.*)?$", README.replace("\\\n", ""), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_has_commands_that_exist(command):
    options = parsed(command)
    if command.startswith("rllib submit"):
        experiment_from(options).validate()
        assert (ROOT / options["runtime_env"]).is_file()


def test_readme_shows_how_to_submit_and_what_to_do_with_results():
    assert [command.split()[1] for command in COMMANDS] == ["submit", "plot"] * 2 + ["plot"]


def test_readme_names_each_file():
    files = {path.name for path in CLUSTER.iterdir() if path.is_file()} - {"README.md"}
    first_column = re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE)
    assert files == {name for name in first_column if name in files} and len(files) >= 5
    assert not [name for name in first_column if "." in name and name not in files]


def table_rows():
    rows = re.findall(r"^\| (\d+ \| \d+ x .*) \|$", README, re.MULTILINE)
    return [[cell.replace(",", "") for cell in row.split(" | ")] for row in rows]


def test_readme_has_the_models_figures():
    assert [row[0] for row in table_rows()] == ["1", "8", "64"]
    for learners, runners_x_envs, *figures in table_rows():
        n, (runners, envs) = int(learners), map(int, runners_x_envs.split(" x "))
        run = Run(learners=n, runners=runners, envs=envs, n_pi=int(figures[1]))
        _, rate = run.bottleneck(Hardware())
        assert run.n_pi * run.states == 32 * 65_536  # as many steps a phase as the paper's
        assert run.idle == 0  # no learner waits for rows
        assert figures == [
            f"{run.states}",
            f"{run.n_pi}",
            f"{n}",
            f"{-(-runners // 16)}",
            f"{runners + n + 1}",
            f"{1.2 * run.store_bytes() / 1e9:.1f}",
            f"{rate:.0f}",
            f"{n * 1e8 / rate / 3600:.0f}",
        ]


def test_files_are_large_enough_for_the_readmes_settings():
    types = launcher(AWS)["available_node_types"]
    pods = autoscaler()
    for row in table_rows()[:2]:  # the third one needs higher bounds, and README.md says so
        learners, runners = int(row[0]), int(row[1].split(" x ")[0])
        assert learners <= types["learner"]["max_workers"]
        assert int(row[5]) <= types["env_runner"]["max_workers"]
        assert learners <= pods["learner"]["max_workers"]
        env_runners = pods["env_runner"]
        assert runners <= env_runners["max_workers"] * env_runners["resources"]["CPU"]


# -- Versions ------------------------------------------------------------------------------------

TAGS = {
    path.name: re.findall(r"(?:rayproject/ray|rllib-ppg):(?:ray)?([\w.-]+)", path.read_text())
    for path in CLUSTER.iterdir()
    if path.is_file()
}
PYTHON = "3.11"  # of the images


def in_image(requirement):
    """Whether it counts for the images' Python."""
    marker = requirement.marker
    return marker is None or marker.evaluate({"python_version": PYTHON})


def pins():
    """The versions of constraints.txt by package."""
    lines = (line.split("#")[0] for line in (ROOT / "constraints.txt").read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line.strip()]
    found = {}
    for requirement in filter(in_image, requirements):
        (specifier,) = requirement.specifier
        found[canonicalize_name(requirement.name)] = specifier.version
    return found


def dependencies():
    """The package's own, by name."""
    requirements = map(Requirement, PROJECT["project"]["dependencies"])
    return {canonicalize_name(r.name): r for r in requirements if in_image(r)}


def test_python_of_the_images_is_supported():
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{PYTHON}.0")
    classifier = f"Programming Language :: Python :: {PYTHON}"
    assert classifier in PROJECT["project"]["classifiers"]


@pytest.mark.parametrize("name", [*FILES, "Dockerfile", "README.md", "runtime_env.yaml"])
def test_images_have_the_pinned_ray(name):
    ray = pins()["ray"]
    assert dependencies()["ray"].specifier.contains(ray)
    assert TAGS[name]
    assert set(TAGS[name]) <= {f"{ray}-py{PYTHON.replace('.', '')}{gpu}" for gpu in ("", "-gpu")}


def test_ray_versions_agree():
    ray = pins()["ray"]
    assert read(KUBERAY)["spec"]["rayClusterSpec"]["rayVersion"] == ray
    assert re.findall(r"ray\[default\]==([\d.]+)", DOCKERFILE) == [ray]


def test_gpu_machines_have_the_gpu_image():
    types = launcher(AWS)["available_node_types"]
    assert types["learner"]["docker"]["worker_image"].endswith("-gpu")
    assert launcher(ONPREM)["docker"]["image"].endswith("-gpu")
    assert re.search(r"^ARG BASE=\S+-gpu$", DOCKERFILE, re.MULTILINE)


def test_runtime_env_brings_what_the_images_lack():
    env = read("runtime_env.yaml")
    assert set(env) <= RuntimeEnv.known_fields - {"py_modules", "working_dir"}  # `rllib submit`'s
    RuntimeEnv(**env)
    packages = {canonicalize_name(r.name): r for r in map(Requirement, env["pip"]["packages"])}
    own = dependencies()
    assert set(packages) == set(own) - {"ray"}
    for name, package in packages.items():
        assert str(package.specifier) == f"=={pins()[name]}"
        assert own[name].specifier.contains(pins()[name])


def test_runtime_env_has_the_pinned_extras():
    text = (CLUSTER / "runtime_env.yaml").read_text()
    extras = [Requirement(line) for line in re.findall(r"^ +# - (\S+==\S+)$", text, re.MULTILINE)]
    optional = PROJECT["project"]["optional-dependencies"]
    assert {str(r).split("==")[0] for r in extras} == {*optional["atari"], *optional["mujoco"]}
    for extra in extras:
        assert str(extra.specifier) == f"=={pins()[canonicalize_name(extra.name)]}"


# -- Dockerfile ----------------------------------------------------------------------------------


def copied():
    """What the image's build copies from the repository."""
    lines = re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE)
    return [w for line in lines for w in line.split()[:-1] if not w.startswith("--")]


def test_dockerfile_copies_what_is_there():
    assert copied() and all((ROOT / path).exists() for path in copied())


def test_dockerfile_copies_what_the_package_is_made_of():
    project, tool = PROJECT["project"], PROJECT["tool"]["setuptools"]
    needed = {project["readme"], *project["license-files"], *tool["package-dir"].values()}
    assert needed | {"pyproject.toml", "constraints.txt"} == set(copied())


def test_dockerfile_installs_by_the_constraints():
    installs = re.findall(r"pip install .*", DOCKERFILE)
    assert len(installs) == 2
    assert all(" -c constraints.txt " in install for install in installs)


def test_dockerfile_stays_the_bases_user():
    assert not re.search(r"^USER\b", DOCKERFILE, re.MULTILINE) and "sudo" not in DOCKERFILE
    owners = re.findall(r"^COPY (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(owners) == {"--chown=1000:100"}
