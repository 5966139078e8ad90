"""What makes PPG fast changes no result: micro-batches, precision, compression, spilling."""

import resource
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from benchmarks.envs import FRAMES, Cheap
from benchmarks.throughput.tiny_module import TinyModule
from rllib_ppg import PPGCallback, PPGConfig
from rllib_ppg.data.compression import Compressed
from rllib_ppg.data.phase_specs import PolicyPhase
from rllib_ppg.data.replay import ReplayBlock, rows_per_block
from rllib_ppg.learning import batches
from rllib_ppg.learning.replay_reader import BlockReader
from rllib_ppg.networks.impala_cnn import ImpalaCNN
from rllib_ppg.networks.rl_module import PPGTorchRLModule
from rllib_ppg.resources.cpu import available_cpus, use_idle_cpu_threads
from rllib_ppg.sampling.env_runner import BatchedEnvRunner
from tests.support.algorithms import only_module
from tests.support.learners import N, T, aux_phase, make_learner, make_rollout, parameters, phases

IMAGES = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)


def relative_error(a, b):
    """Of all gradients together: the norm of the difference over the norm of `b`."""
    flat_a, flat_b = (torch.cat([g.flatten().double() for g in x]) for x in (a, b))
    return float((flat_a - flat_b).norm() / flat_b.norm())


def gradients(learner, optimizer):
    """Those of an Adam's first step, which its first moment is a tenth of."""
    adam = learner.get_optimizer(DEFAULT_MODULE_ID, optimizer)
    return [s["exp_avg"] for s in adam.state_dict()["state"].values()]


def first_gradients(**kwargs):
    """The policy phase's, and the auxiliary phase's at the weights that it leaves with lr 0."""
    learner = make_learner(obs=IMAGES, e_aux=1, lr=0.0, **kwargs)
    phases(learner, make_rollout(obs=IMAGES))
    return gradients(learner, "default_optimizer"), gradients(learner, "aux")


# -- The same gradient ------------------------------------------------------------------------


def test_channels_last_has_the_gradient_of_the_plain_format():
    torch.manual_seed(0)
    net = ImpalaCNN((64, 64, 3)).double()
    images = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)

    def grads(module, x):
        module.zero_grad()
        module(x).square().mean().backward()
        return [p.grad.clone() for p in module.parameters()]

    fast = grads(net, images)
    net.stacks.to(memory_format=torch.contiguous_format)
    plain = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)  # NCHW in memory
    assert relative_error(fast, grads(net, plain)) < 1e-10


@pytest.mark.parametrize("micro_batch_size", [1, 7, "auto"])
def test_micro_batches_add_up_to_the_gradient_of_the_minibatch(micro_batch_size):
    whole = first_gradients(micro_batch_size=10_000, double=True)
    parts = first_gradients(micro_batch_size=micro_batch_size, double=True)
    for a, b in zip(parts, whole, strict=True):
        assert relative_error(a, b) < 1e-7  # advantages and value targets are float32


def test_auto_goes_by_the_size_of_the_images():
    def frames(*shape):
        return (
            make_learner(obs=gym.spaces.Box(0, 255, shape, np.uint8))
            .trained[DEFAULT_MODULE_ID]
            ._micro_batch_size
        )

    assert frames(64, 64, 3) == 32
    assert frames(84, 84, 4) == 18
    assert frames(16, 16, 3) == 512


def weights_after_phases(threads, **kwargs):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        learner = make_learner(obs=IMAGES, micro_batch_size=3, **kwargs)
        torch.manual_seed(0)
        return phases(learner, make_rollout(obs=IMAGES))[0]
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_bit():
    one, *more = (weights_after_phases(threads) for threads in (1, 2, 3))
    for weights in more:
        for name, w in weights.items():
            assert torch.equal(w, one[name]), name


class Dropout(PPGTorchRLModule):
    """Drops pixels at random."""

    def _forward_train(self, batch, **kwargs):
        obs = torch.nn.functional.dropout(batch["obs"].float() / 255.0, 0.5, self.training)
        return super()._forward_train(batch | {"obs": obs}, **kwargs)


class RunningMean(PPGTorchRLModule):
    """Subtracts a running mean of the pixels, which each pass updates."""

    def setup(self):
        super().setup()
        self.register_buffer("mean", torch.zeros(()))

    def _forward_train(self, batch, **kwargs):
        obs = batch["obs"].float() / 255.0
        self.mean.lerp_(obs.mean(), 0.5)
        return super()._forward_train(batch | {"obs": obs - self.mean}, **kwargs)


@pytest.mark.parametrize(
    "module_class", [Dropout, pytest.param(RunningMean, marks=pytest.mark.long)]
)
def test_passes_that_depend_on_each_other_run_in_order(module_class):
    one, *more = (weights_after_phases(2, module_class=module_class) for _ in range(3))
    for weights in more:
        for name, w in weights.items():
            assert torch.equal(w, one[name]), name


# -- Precision --------------------------------------------------------------------------------


def test_bfloat16_has_about_the_same_gradient_in_the_phase_it_is_set_for():
    """Within 10 % of all gradients' norm: a number has 8 bits, and terms of both signs add up."""
    policy, aux = first_gradients()
    policy_b, aux_f = first_gradients(policy_precision="bfloat16")
    assert 1e-4 < relative_error(policy_b, policy) < 0.1
    policy_f, aux_b = first_gradients(aux_precision="bfloat16")
    assert relative_error(policy_f, policy) == 0.0
    assert 1e-4 < relative_error(aux_b, aux) < 0.1
    assert relative_error(aux_f, aux) < 0.1  # whose value targets are of the policy phase
    assert all(g.dtype == torch.float32 for g in policy_b + aux_b)


def test_bfloat16_compares_the_policy_with_itself():
    """Before the first auxiliary step it has not moved, so rounding must not make a KL of it."""
    learner = make_learner(obs=IMAGES, e_aux=2, aux_precision="bfloat16")
    _, _, aux = phases(learner, make_rollout(obs=IMAGES))
    assert aux[0]["aux/clone_kl"] == pytest.approx(0.0, abs=1e-9)
    assert aux[1]["aux/clone_kl"] > 1e-9
    assert all(p.dtype == torch.float32 for p in parameters(learner).values())


# -- The same states --------------------------------------------------------------------------


def test_streamed_observations_train_as_resident_ones_do(monkeypatch):
    kwargs = {"obs": IMAGES, "num_minibatches": 3, "e_aux": 2, "segment_length": 4}
    rollouts = [make_rollout(seed=s, rows=3, obs=IMAGES) for s in range(2)]
    resident = phases(make_learner(**kwargs), *rollouts)
    monkeypatch.setattr(batches, "_CPU_RESIDENT_BYTES", 0)
    streamed = phases(make_learner(**kwargs), *rollouts)
    assert_same(resident, streamed)


def test_compressed_observations_are_exact():
    kwargs = {"obs": IMAGES, "num_minibatches": 3, "e_aux": 2}
    rollout = make_rollout(obs=IMAGES)
    rollout.obs[:, :, :, :8] = 7  # something to compress
    plain = phases(make_learner(**kwargs), rollout)
    learner = make_learner(replay_compression="lz4", **kwargs)
    assert_same(phases(learner, rollout), plain)
    phase = PolicyPhase(DEFAULT_MODULE_ID, 0, [np.arange(N)], N, 0, 0, None, rows_per_block=N)
    (_, (info,)), block = learner.policy_phase(phase, rollout)
    assert isinstance(block.obs, Compressed)
    assert info.nbytes < 0.7 * rollout.obs.nbytes
    np.testing.assert_array_equal(block.decompressed().obs, rollout.obs)


@pytest.mark.parametrize("shape", [(0, 4), (3, 5, 2), (1,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_compression_gives_back_any_array(shape, dtype):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    back = Compressed.of(array).array()
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(Compressed.of(array.T).array(), array.T)


def test_blocks_of_single_rows_train_as_one_block_does():
    def both(rows_per_block):
        learner, rollout = make_learner(e_aux=2, num_aux_minibatches=3), make_rollout()
        phase = PolicyPhase(DEFAULT_MODULE_ID, 1, [np.arange(N)], N, 0, 0, None, rows_per_block)
        (_, infos), *blocks = learner.policy_phase(phase, rollout)
        assert [list(i.rows) for i in infos] == [
            list(range(a, min(a + rows_per_block, N))) for a in range(0, N, rows_per_block)
        ]
        metrics = aux_phase(learner, list(zip(infos, blocks, strict=True)), rows=[N])
        return parameters(learner), None, metrics

    one = both(N)
    assert_same(both(1), one)
    assert_same(both(4), one)


def test_a_block_is_as_few_rows_as_are_worth_an_object():
    assert rows_per_block(256 * 12_288) == 1  # Procgen, the paper's rows
    assert rows_per_block(64 * 12_288) == 1
    assert rows_per_block(128 * 16) == 128  # CartPole
    assert rows_per_block(0) >= 1


def assert_same(a, b):
    (parameters_a, metrics_a, aux_a), (parameters_b, metrics_b, aux_b) = a, b
    for name, p in parameters_a.items():
        assert torch.equal(p, parameters_b[name]), name
    assert metrics_a == metrics_b
    assert aux_a == aux_b


class Spilled(PPGCallback):
    """Notes whether a replay block has been spilled when the auxiliary phase begins."""

    def on_aux_epoch_end(self, *, algorithm, epoch, **kwargs):
        if epoch == 0:
            refs = [
                e.ref for iteration in only_module(algorithm).replay.iterations for e in iteration
            ]
            where = ray.experimental.get_object_locations(refs)
            algorithm.spilled = sum(w["did_spill"] for w in where.values())


class FewColours(Cheap):
    """Frames that lz4 makes small."""

    def __init__(self, config):
        super().__init__(config)
        self._bank[:, :, 1:] = 3  # all but the first line
        self._bank[:, :, 0, :, 1:] = 3


@pytest.mark.long
def test_a_spilled_list_trains_as_one_in_memory_does(build):
    """The store has 300 MB and the list 470; compressed, it fits."""
    results = {}
    for compression in (None, "lz4"):
        config = (
            PPGConfig()
            .environment(FewColours, env_config=FRAMES)
            .env_runners(num_env_runners=0, num_envs_per_env_runner=16)
            .env_runners(rollout_fragment_length=128)
            .learners(num_learners=0)
            .rl_module(rl_module_spec=RLModuleSpec(module_class=TinyModule))
            .training(n_pi=19, e_aux=2, num_minibatches=1, num_aux_minibatches=4)
            .training(replay_may_spill=True, replay_compression=compression)
            .callbacks(Spilled)
            .debugging(seed=5)
        )
        algo = build(config)
        for _ in range(19):
            result = algo.train()
        assert result["ppg"]["num_aux_phases_lifetime"] == 1
        assert (algo.spilled > 0) == (compression is None)
        module = result["learners"][DEFAULT_MODULE_ID]
        results[compression] = module["aux"], algo.get_module().state_dict()
        algo.stop()
    (aux, weights), (expected_aux, expected_weights) = results[None], results["lz4"]
    assert aux == expected_aux
    for name, w in weights.items():
        assert torch.equal(w, expected_weights[name]), name


# -- What the process is told -----------------------------------------------------------------

FAULTS = """
import resource, sys, torch
from concurrent.futures import ThreadPoolExecutor
from rllib_ppg.resources.cpu import keep_freed_memory
keep_freed_memory()
def layers():
    kept = [torch.ones(2**20) for _ in range(24)]  # 4 MB each, and 96 MB freed at once
    del kept
pool = ThreadPoolExecutor(1)
def run():
    pool.submit(layers).result() if sys.argv[1] == "thread" else layers()
run()  # a second time, since a thread's heaps come one after the other
run()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_freed_memory_is_kept(where):
    """Without it glibc mostly gives back all that is freed, and sometimes nothing."""
    out = subprocess.check_output([sys.executable, "-c", FAULTS, where], text=True)
    pages = 20 * 24 * 2**22 // resource.getpagesize()  # that are freed and taken again
    assert int(out.split()[-1]) < pages / 10


def test_learners_and_env_runners_keep_it(monkeypatch):
    told = []
    for where in ("learning.base_learner", "sampling.env_runner"):
        name = f"rllib_ppg.{where}.keep_freed_memory"
        monkeypatch.setattr(name, lambda where=where: told.append(where))
    make_learner()
    config = PPGConfig().environment("CartPole-v1").env_runners(num_envs_per_env_runner=1)
    BatchedEnvRunner(config=config, worker_index=1).stop()
    assert told == ["learning.base_learner", "sampling.env_runner"]


@pytest.mark.skipif(available_cpus() == 1, reason="there is nobody to take CPUs from")
@pytest.mark.parametrize("images", [True, False])
def test_who_works_takes_the_cpus_of_those_who_wait(build, images):
    """The main process, an env runner and a learner: three CPUs, which images have use for."""
    space = IMAGES if images else gym.spaces.Box(-1, 1, (3,))
    spaces = {"observation_space": space, "action_space": gym.spaces.Discrete(4)}
    config = (
        PPGConfig()
        .environment(Cheap, env_config=spaces)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=4, rollout_fragment_length=T)
        .learners(num_learners=1)
        .training(n_pi=1, num_minibatches=1, num_aux_minibatches=1)
        .rl_module(model_config={"impala_channels": (4,), "impala_dense": 16})
    )
    before, algo = torch.get_num_threads(), build(config)
    threads = algo.env_runner_group.foreach_env_runner(
        lambda runner: torch.get_num_threads(), local_env_runner=False
    )
    threads += [
        r.get() for r in algo.learner_group.foreach_learner(lambda learner: torch.get_num_threads())
    ]
    assert threads == 2 * [min(3, available_cpus()) if images else 1]
    assert torch.get_num_threads() == before  # the user's own process is left alone


@pytest.mark.skipif(available_cpus() == 1, reason="there is nobody to take CPUs from")
def test_a_users_number_of_threads_wins(cluster):
    @ray.remote(num_cpus=1)
    class Process:
        def threads(self):
            use_idle_cpu_threads(PPGConfig().learners(num_learners=1), 1)
            return torch.get_num_threads()

    users = Process.options(runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}).remote()
    ours = Process.remote()
    assert ray.get([users.threads.remote(), ours.threads.remote()]) == [1, 2]


def test_blocks_beyond_the_budget_are_closed(cluster):
    blocks = [ReplayBlock(np.full((1, 100), i), np.ones(1), {}) for i in range(4)]
    reader = BlockReader(
        [ray.put(b) for b in blocks], cache_bytes=2 * blocks[0].nbytes, timeout_s=60
    )
    for k in (0, 1, 2, 3, 0, 1):
        assert reader[k].obs[0, 0] == k
        assert reader[k] is reader[k]
        assert len(reader._cache) <= 2
