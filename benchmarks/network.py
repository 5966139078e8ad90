"""Training throughput of one network, the paper's CNN, and where its time goes.

    python -m benchmarks.network [--compile]

Prints samples/s by the number of frames that go through at once: layers divided among all threads,
or a micro-batch for each thread (`rllib_ppg.learning.micro_batches`), with memory as torch finds it
or kept (`rllib_ppg.resources.cpu`); then the share of each operator. Each figure is the median of
three processes' best of three, taken in turn.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.profiler import profile

from rllib_ppg.learning.micro_batches import MicroBatchThreads
from rllib_ppg.networks.impala_cnn import ImpalaCNN
from rllib_ppg.resources.cpu import keep_freed_memory

FRAMES = (16, 32, 64, 128, 1024)


def passes(setting: dict, frames: int) -> tuple[nn.Module, torch.Tensor]:
    """The network and a micro-batch in the setting's memory format."""
    net = nn.Sequential(ImpalaCNN((64, 64, 3)), nn.Linear(256, 15))
    x = torch.randint(0, 256, (frames, 64, 64, 3), dtype=torch.uint8)
    if setting.get("contiguous"):
        net[0].stacks.to(memory_format=torch.contiguous_format)
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    if setting.get("compile"):
        net = torch.compile(net)
    return net, x


def samples_per_second(setting: dict, frames: int) -> float:
    """In this process; best of two."""
    if setting.get("kept"):
        keep_freed_memory()
    if setting.get("heap"):  # glibc's M_MMAP_MAX: no array is too large for the heap
        keep_freed_memory()
        ctypes.CDLL(None).mallopt(-4, 0)
    torch.set_num_threads(setting.get("threads") or os.cpu_count() or 1)
    net, x = passes(setting, frames)
    repeats = max(1, 512 // frames)
    threads = MicroBatchThreads(torch.get_num_threads() if setting.get("side by side") else 1)
    parameters = list(net.parameters())

    def gradients(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(setting.get("bfloat16"))):
            out = net(x)
        return torch.autograd.grad(out.float().square().sum(), parameters)

    def train() -> None:
        for _ in threads.map(gradients, [x] * repeats, repeats):
            pass

    train()
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        train()
        best = max(best, repeats * frames / (time.perf_counter() - start))
    return best


def in_a_process(setting: dict, frames: int) -> float:
    """In a process of its own, whose allocator nobody else has used."""
    cmd = [sys.executable, "-m", "benchmarks.network", "--one", json.dumps([setting, frames])]
    return float(subprocess.check_output(cmd, text=True).split()[-1])


def operators() -> None:
    """Prints the operators that take the most time of a micro-batch."""
    keep_freed_memory()
    net, x = passes({}, 64)
    net(x).square().sum().backward()
    with profile() as prof:
        for _ in range(5):
            net(x).square().sum().backward()
    events = sorted(prof.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    print("\n| operator | share of the time |\n|---|---|")
    for event in events[:10]:
        print(f"| {event.key} | {event.self_cpu_time_total / total:.1%} |")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile too (a minute a cell)"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(samples_per_second(*json.loads(args.one)))
        return
    kept: dict = {"kept": True}
    ours = kept | {"side by side": True}
    cells: dict[str, tuple[dict, tuple[int, ...]]] = {
        "layers divided, as torch finds memory": ({}, FRAMES[1:]),
        "layers divided, memory kept": (kept, FRAMES[1:]),
        "layers divided, all on the heap": ({"heap": True}, FRAMES[1:]),
        "one thread, memory kept": (kept | {"threads": 1}, (32, 64)),
        "**side by side, memory kept**": (ours, FRAMES[:-1]),
        "side by side, as torch finds memory": ({"side by side": True}, (32,)),
        "side by side, all on the heap": (ours | {"heap": True}, (32, 128)),
        "side by side, contiguous NCHW": (ours | {"contiguous": True}, (32,)),
        "layers divided, memory kept, bfloat16": (kept | {"bfloat16": True}, FRAMES[1:]),
        "**side by side, memory kept, bfloat16**": (ours | {"bfloat16": True}, FRAMES[:-1]),
    }
    if args.compile:
        cells["side by side, memory kept, torch.compile"] = (ours | {"compile": True}, (32,))
    from benchmarks.measuring import machine  # slow to import, for each process

    print(json.dumps(machine()))
    results: dict[tuple[str, int], list[float]] = {}
    for _ in range(3):
        for name, (setting, sizes) in cells.items():
            for frames in sizes:
                results.setdefault((name, frames), []).append(in_a_process(setting, frames))
    print("\n| samples/s | " + " | ".join(map(str, FRAMES)) + " |")
    print("|---" * (len(FRAMES) + 1) + "|")
    for name in cells:
        row = [results.get((name, frames)) for frames in FRAMES]
        print(
            f"| {name} | " + " | ".join(f"{statistics.median(r):.0f}" if r else "" for r in row),
            "|",
        )
    operators()


if __name__ == "__main__":
    main()
