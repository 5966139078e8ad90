"""How fast PPG is: each figure is a ratio of two things measured in turn, in one run.

    python -m benchmarks.throughput [--quick] [--json FILE] [--only NAME ...]

A comparison goes on until its ratio is known to 5 %, or for some rounds; if it then may be on
either side of its target, the verdict is "too noisy". Prints a row a figure, and with --json writes
them beside versions, seed, machine and date. The device is what RLlib's settings choose: a GPU for
the learner where there is one.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import ray
import torch

from benchmarks.measuring import SEED, machine, start_ray, write
from benchmarks.throughput.memory import memory, spilled
from benchmarks.throughput.phases import phases
from benchmarks.throughput.sampling import sampling_procgen, sampling_trivial
from benchmarks.throughput.shared_machine import shared_machine
from benchmarks.throughput.sizes import QUICK, Sizes
from benchmarks.throughput.whole_runs import learners, papers_aux_epochs, vectors, whole_run

# `spilled` comes last: it leaves a small object store behind.
MEASUREMENTS = (
    sampling_procgen,
    sampling_trivial,
    phases,
    whole_run,
    papers_aux_epochs,
    learners,
    vectors,
    shared_machine,
    memory,
    spilled,
)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="PPG's speed and memory, as ratios")
    parser.add_argument("--quick", action="store_true", help="small, without what takes long")
    parser.add_argument("--json", metavar="FILE", help="write the figures, or renew those in it")
    names = [m.__name__ for m in MEASUREMENTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes()
    print(json.dumps(machine()), flush=True)
    torch.manual_seed(SEED)
    start_ray()
    rows = []
    for measure in MEASUREMENTS:
        if args.only and measure.__name__ not in args.only:
            continue
        if args.quick and not args.only and measure is spilled:
            continue
        start = time.perf_counter()
        for row in measure(sizes):
            rows.append(row)
            value = "-" if row.value is None else f"{row.value:.3f}"
            sign = ">=" if row.at_least else "<="
            target = "" if row.target is None else f"{sign} {row.target:g}"
            print(f"{value:>8}  {target:8}  {row.verdict:9}  {row.name}  {row.detail}", flush=True)
        print(f"          ({measure.__name__}: {time.perf_counter() - start:.0f} s)", flush=True)
    if args.json:
        write(pathlib.Path(args.json), rows, args.quick)
    ray.shutdown()


if __name__ == "__main__":
    main()
