"""Several Ray nodes on this machine: raylets of their own, with their own folders and stores."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from rllib_ppg.placement import ENV_RUNNER, LEARNER, ROLES
from tests.command import RLLIB

MB = 2**20


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


class Live:
    """The command as it runs: its lines one by one, and signals to it."""

    def __init__(self, *words, **kwargs):
        self._process = subprocess.Popen(
            [RLLIB, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
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
