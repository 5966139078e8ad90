"""How long a local run takes to start, and whose time it is.

    python -m benchmarks.start

Seconds from the start of Python to the first rollout of a run on CartPole with one env runner, in a
process of its own: the median of five.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from benchmarks.measuring import machine

RUN = """
import json, time
spent, begun = {}, time.perf_counter()
def done(what):
    global begun
    now = time.perf_counter()
    spent[what], begun = now - begun, now
import torch
done("import torch")
import ray.rllib.algorithms
done("import RLlib")
import rllib_ppg
rllib_ppg.PPG, rllib_ppg.PPGConfig
done("import rllib_ppg")
ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
done("start Ray")
config = rllib_ppg.PPGConfig().environment("CartPole-v1").env_runners(num_env_runners=1)
algo = config.training(num_minibatches=1, segment_length=1).build_algo()
done("build the algorithm: a process for the env runner, which imports the same")
algo._sample()
done("first rollout")
print(json.dumps(spent))
"""


def main() -> None:
    """See the module."""
    print(json.dumps(machine()), flush=True)
    runs = [
        json.loads(subprocess.check_output([sys.executable, "-c", RUN], text=True).split("\n")[-2])
        for _ in range(5)
    ]
    print("\n| what | s |\n|---|---|")
    for what in runs[0]:
        print(f"| {what} | {statistics.median(run[what] for run in runs):.2f} |")
    print(f"| all | {statistics.median(sum(run.values()) for run in runs):.2f} |")


if __name__ == "__main__":
    main()
