"""What `benchmarks/learning.py` trains: tasks, seeds, settings. Fixed beforehand.

Settings are from the literature and the same for all tasks of a suite; none was tuned on them,
except for two of PPG's in `mujoco_six`, which were chosen on the seeds of `mujoco_choice`.

A run's result is the mean of its logged returns over the last tenth of its env steps, each of
which is the mean of the last 100 episodes. A suite's table has, for each task and arm, mean and
standard deviation over the seeds; its score is a result divided by the mean of the arm `ppo` on
that task, and the scores of all tasks and seeds are summed up by their interquartile mean (IQM)
with a 95 % stratified bootstrap interval (Agarwal et al. 2021, arXiv 2108.13264).

An arm with another name than ppg or ppo is ppg with this one setting. `no_aux` has no auxiliary
phases, which makes it our own PPO: what they add, all else being equal.
"""

from benchmarks.suites import atari, batch_size, minatar, mujoco, procgen

SUITES = {
    **mujoco.SUITES,
    **minatar.SUITES,
    **batch_size.SUITES,
    **procgen.SUITES,
    **atari.SUITES,
}
