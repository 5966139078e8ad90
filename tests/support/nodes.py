"""Several Ray nodes on this machine: raylets of their own, with their own folders and stores."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import ray
import yaml
from ray.cluster_utils import Cluster
from ray.experimental.internal_kv import _initialize_internal_kv

from rllib_ppg.resources.node_roles import ENV_RUNNER, LEARNER, ROLES
from tests.support.command import RLLIB

MB = 2**20
RAY = str(Path(sys.executable).parent / "ray")


class Nodes:
    """A head without CPUs, and nodes of each role as they are added."""

    def __init__(self):
        self._folders = []
        self.client_port = free_port()
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "resources": {ROLES: 1},
                "include_dashboard": True,
                "dashboard_port": free_port(),
                "dashboard_agent_listen_port": free_port(),  # another Ray here has the usual one
                "ray_client_server_port": self.client_port,
            },
        )

    @property
    def address(self):
        return self._cluster.address

    @property
    def job_server(self):
        return f"http://{self._cluster.head_node.webui_url}"

    def add(self, role, num_cpus=2, store=200 * MB):
        """Starts a node; `cluster/`'s learner nodes and env-runner nodes offer the same."""
        # Each has a disk of its own, for what Ray writes: as on machines of their own.
        self._folders.append(tempfile.mkdtemp(prefix="n", dir="/tmp"))  # sockets' paths are short
        node = self._cluster.add_node(
            num_cpus=num_cpus,
            resources={role: 1000},
            object_store_memory=store,
            temp_dir=self._folders[-1],
        )
        return node

    def add_learner(self, **kwargs):
        return self.add(LEARNER, **kwargs)

    def add_env_runner(self, **kwargs):
        return self.add(ENV_RUNNER, **kwargs)

    def kill(self, node):
        """Ends a node's processes as a machine's loss would."""
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self):
        self._cluster.shutdown()
        if ray.is_initialized():  # to another one, whose store of keys that has closed, too
            _initialize_internal_kv(ray._private.worker.global_worker.gcs_client)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.stop()

    def actors(self, class_name, state="ALIVE"):
        """Ids of the nodes of all actors of a class, now or, with DEAD, before."""
        from ray.util.state import list_actors

        filters = [("class_name", "=", class_name), ("state", "=", state)]
        found = list_actors(self.job_server, filters=filters, detail=True)
        return [actor.node_id for actor in found]


@contextmanager
def growing_cluster(folder):
    """A head alone, and Ray's autoscaler; raylets here stand in for machines. Yields its address.

    With token authentication, as Ray's launcher sets it up.
    """
    port, head = free_port(), "ray.head.default"
    kinds = {
        head: {"resources": {ROLES: 1}, "max_workers": 0},
        "learner": {"resources": {"CPU": 2, LEARNER: 1000}, "max_workers": 2},
        "env_runner": {"resources": {"CPU": 1, ENV_RUNNER: 1000}, "max_workers": 4},
    }
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    empty = ("initialization_commands", "setup_commands", "head_setup_commands")
    empty += ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    config = {
        "cluster_name": "growing",
        "provider": {
            "type": "external",
            "module": provider,
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": "f" * 56,
            "launch_multiple": True,
        },
        "available_node_types": {k: {"node_config": {}, **kind} for k, kind in kinds.items()},
        "head_node_type": head,
        "max_workers": 6,
        "idle_timeout_minutes": 60,
        "upscaling_speed": 100,
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in (*empty, "cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    env = {
        **os.environ,
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": "f" * 56,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": "f" * 56,
        "RAY_NODE_TYPE_NAME": head,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    words = [RAY, "start", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
    words += ["--resources", json.dumps({ROLES: 1}), f"--autoscaling-config={file}", "--block"]
    # Ray notes a head that was started in its folder, and later scripts would look for it.
    with (
        tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as ray_folder,
        started(words, env=env | {"RAY_TMPDIR": ray_folder}),
    ):
        yield f"127.0.0.1:{port}"


@contextmanager
def started(words, **kwargs):
    """A `ray start --block`, from when it runs to its end and that of what it has started."""
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **kwargs,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise AssertionError("".join(lines))
        yield
    finally:
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        process.stdout.close()


class Live:
    """The command as it runs: its lines one by one, and signals to it."""

    def __init__(self, *words, **kwargs):
        self._process = subprocess.Popen(
            [RLLIB, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell's background processes, this one perhaps, ignore Ctrl-C and so would theirs.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            **kwargs,
        )
        self.lines = []

    def until(self, *words):
        """Reads on to the first line that has all these words; returns it."""
        for line in self._process.stdout:
            self.lines.append(line)
            if all(word in line for word in words):
                return line
        raise AssertionError(f"ended without {words}: {''.join(self.lines)}")

    def interrupt(self):
        os.killpg(self._process.pid, signal.SIGINT)

    def end(self):
        """Reads what is left; returns the exit code."""
        self.lines += self._process.stdout
        return self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def path_with_python(monkeypatch):
    """Jobs run `python`, as found on the path of who started the head."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def locations(refs):
    """The ids of the nodes that each object is on."""
    found = ray.experimental.get_object_locations(refs)
    return [set(found[ref]["node_ids"]) for ref in refs]
