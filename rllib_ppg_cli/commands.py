"""All commands, options and help texts of `rllib`.

What a command runs is in the module of its name, which is imported only when it runs.
"""

from __future__ import annotations

from typing import Any

import click

from rllib_ppg_cli.command import Command, Group, Setting, YAMLMapping, given

_YAML = YAMLMapping()
_COUNT = click.IntRange(min=1)
_TRUST = (
    "A checkpoint is pickled Python: reading it can run any code, so use only checkpoints that you "
    "trust."
)
_COMPLETION = """
\b
Shell completion: add the line of your shell to its start-up file.
  bash   eval "$(_RLLIB_COMPLETE=bash_source rllib)"
  zsh    eval "$(_RLLIB_COMPLETE=zsh_source rllib)"
  fish   _RLLIB_COMPLETE=fish_source rllib | source
"""


def _option(line: str, about: str, kind: Any = None, **kwargs: Any) -> click.Option:
    """Returns an option from a line such as "--env -e ID" and its help text."""
    names = [word for word in line.split() if word.startswith("-")]
    metavar = " ".join(line.split()[len(names) :]) or None
    return click.Option(names, type=kind, metavar=metavar, help=about, **kwargs)


def _flag(name: str, about: str) -> click.Option:
    return click.Option([name], is_flag=True, help=about)


_WHAT_TO_TRAIN = [
    _option("--algo --run -a -r NAME", "The algorithm: PPG, or one of RLlib's, such as PPO."),
    _option(
        "--env -e ENV",
        "A gymnasium id, such as procgen-coinrun-v0, or an env of your own: module:Class, "
        "file.py:Class or module:ID.",
    ),
    _option(
        "--env-config {...}", "Settings of the environment, as in '{\"num_levels\": 200}'.", _YAML
    ),
    _option(
        "--config -c {...}",
        "Settings of the algorithm in JSON or YAML, as in '{\"n_pi\": 4}'.",
        _YAML,
    ),
    _option(
        "--set KEY=VALUE",
        "One setting, as in n_pi=4 or env_config.num_levels=200. Repeat it for more.",
        Setting(),
        multiple=True,
    ),
    _option(
        "--device",
        "Where learners train: cuda is --set num_gpus_per_learner=1, unless it is set. For several "
        "learners add --set num_learners=N, for more sampling --set num_env_runners=N. "
        "(default: as the experiment says, else cpu)",
        click.Choice(["cpu", "cuda"]),
    ),
    _option("--seed N", "The random seed. (default: drawn)", int),
    _option(
        "--num-samples N",
        "How often to run each config, with different seeds (default: 1); in a search, the number "
        "of trials.",
        int,
    ),
    _option(
        "--scheduler NAME",
        "A Tune scheduler that stops or changes trials, such as asha or pbt. (default: none)",
    ),
    _option("--scheduler-config {...}", "The scheduler's arguments in JSON or YAML.", _YAML),
    _option(
        "--search {...}",
        "Let Optuna choose settings, as in '{optuna: {lr: {loguniform: [1e-4, 1e-3]}}, "
        "num_samples: 20}'; an empty optuna: {} searches PPG's own space. (default: none)",
        _YAML,
    ),
    _flag(
        "--dry-run",
        "Show settings, phases, size of the replay list and resources, and train nothing.",
    ),
]
_STOP = [
    _option(
        "--stop -s {...}",
        "Stop when a result reaches a value, as in '{\"num_env_steps_sampled_lifetime\": 100000}'. "
        "(default: train until Ctrl-C)",
        _YAML,
    ),
    _flag("--as-test", "Fail if the run ends before it reaches the return in --stop."),
    _option(
        "--max-failures N",
        "Restart a failed run up to N times from its last checkpoint. (default: 0)",
        int,
    ),
    _option(
        "--grace-time SECONDS",
        "How long to wait for a checkpoint after SIGTERM. (default: 25)",
        float,
    ),
    _option("--restore PATH", "Start a new run from this checkpoint."),
    _flag("--resume", "Resume an interrupted experiment with its original settings."),
]
_RESULTS = [
    _option("--storage-path PATH", "Folder or URI for the results. (default: ~/ray_results)"),
    _option(
        "--experiment-name -n NAME",
        "Name of the run's folder there. (default: the experiment file's name, with a number if it "
        "is taken; or algorithm and date)",
    ),
    _option("--checkpoint-freq N", "Save a checkpoint every N iterations. (default: never)", int),
    _option(
        "--checkpoint-at-end/--no-checkpoint-at-end",
        "Save a checkpoint at the end. (default: no)",
        default=None,
    ),
    _option("--keep-checkpoints-num N", "Number of checkpoints to keep. (default: all)", int),
    _option(
        "--checkpoint-score-attr RESULT",
        "Keep the checkpoints with the highest value of this result; min-RESULT keeps the "
        "lowest. (default: the latest)",
    ),
]
_TRACKING = [
    _flag("--track", "Log to Weights & Biases."),
    _option("--wandb-project NAME", "Its project. (default: rllib_ppg)"),
    _option("--wandb-group NAME", "Its group. (default: the experiment's name)"),
    _option(
        "--wandb-mode",
        "offline keeps the data on disk. (default: online; offline without a key or network)",
        click.Choice(["online", "offline"]),
    ),
    _flag("--wandb-checkpoints", "Upload the checkpoints."),
    _flag("--wandb-videos", "Upload a video of one episode per evaluation."),
]
_EXPERIMENT = {
    "What to train": _WHAT_TO_TRAIN,
    "For how long": _STOP,
    "Results and checkpoints": _RESULTS,
    "Weights & Biases": _TRACKING,
}
_TRAIN = _EXPERIMENT | {
    "Ray": [
        _option(
            "--ray-address ADDRESS",
            "A Ray cluster: auto, HOST:6379 or ray://HOST:10001. (default: RAY_ADDRESS, or a new "
            "Ray on this machine)",
        ),
        _option("--ray-num-cpus N", "CPUs of the new Ray. (default: all)", int),
        _option("--ray-num-gpus N", "GPUs of the new Ray. (default: all)", int),
        _option(
            "--ray-object-store-memory BYTES",
            "Size of the new Ray's object store. (default: Ray's)",
            int,
        ),
    ]
}
_PLAY = [
    _option("--env -e ENV", "Another environment. (default: the training's)"),
    _option(
        "--env-config {...}",
        "Settings of the environment that replace those of the training or its evaluation, as in "
        "'{\"num_levels\": 0}'.",
        _YAML,
    ),
    _option("--config -c {...}", "Settings of the algorithm that replace the training's.", _YAML),
    _option(
        "--explore/--no-explore",
        "Sample actions, as Procgen's published returns do, or take the most probable ones. "
        "(default: `explore` of the training's evaluation_config or config; PPG samples)",
        default=None,
    ),
    _option("--seed N", "Seed of the environment and the actions. (default: 0)", int, default=0),
]


def _checkpoint() -> click.Argument:
    return click.Argument(
        ["checkpoint"],
        metavar="CHECKPOINT",
        help="Folder or URI of a checkpoint; of a trial, whose newest checkpoint is taken; or of a "
        "sweep, whose best trial is taken.",
    )


def _runs() -> click.Argument:
    return click.Argument(
        ["runs"],
        nargs=-1,
        required=True,
        metavar="RUN...",
        help="Folder or URI of a trial, an experiment, or several of them.",
    )


def _steps() -> click.Option:
    about = "Stop after this many env steps, even before --episodes. (default: no limit)"
    return _option("--steps N", about, _COUNT)


def _after_the_word_file(
    ctx: click.Context, param: click.Parameter, words: tuple[str, ...]
) -> str | None:
    if not words or ctx.resilient_parsing:
        return None
    if len(words) == 2 and words[0] == "file":
        return words[1]
    raise click.UsageError(
        f"unexpected {' '.join(words)}: an experiment is given as in `rllib train file cartpole`",
        ctx,
    )


@click.group(
    cls=Group,
    epilog=_COMPLETION,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="rllib-ppg", message="rllib-ppg %(version)s")
@click.pass_context
def rllib(ctx: click.Context) -> None:
    """Train and evaluate PPG and RLlib's other algorithms."""
    if ctx.invoked_subcommand is None:
        raise click.UsageError("give a command, as in `rllib train file cartpole`", ctx)


@rllib.command(
    cls=Command,
    usage=["train --algo NAME --env ENV [OPTIONS]", "train file FILE [OPTIONS]"],
    params=[
        click.Argument(
            ["file"],
            nargs=-1,
            callback=_after_the_word_file,
            metavar="file FILE",
            help="An experiment in a .yaml file or a .py file, which is run, or the name of a "
            "shipped example. Options override what it says.",
        )
    ],
    option_groups=_TRAIN,
)
@click.pass_context
def train(ctx: click.Context, **_: Any) -> int:
    """Train an algorithm on an environment, or run an experiment file."""
    from rllib_ppg_cli.train import main

    return main(given(ctx), ctx.obj)


@rllib.command(
    cls=Command,
    usage=[
        "submit FILE --address http://HEAD:8265 [OPTIONS]",
        "submit --algo NAME --env ENV --address http://HEAD:8265 [OPTIONS]",
        "submit --attach JOB --address http://HEAD:8265",
    ],
    params=[
        click.Argument(
            ["file"],
            metavar="FILE",
            required=False,
            help="An experiment, as for `rllib train file FILE`.",
        )
    ],
    option_groups={
        "Job": [
            _option(
                "--address URL",
                "The cluster's job server. (default: RAY_API_SERVER_ADDRESS, or "
                "http://127.0.0.1:8265)",
            ),
            _option(
                "--runtime-env FILE",
                "A Ray runtime environment in YAML with what the nodes lack. This package and "
                "the experiment file are always sent. (default: none)",
            ),
            _flag("--no-wait", "Submit the job and return."),
            _option("--attach JOB", "Follow a job that was submitted before."),
        ],
        **_EXPERIMENT,
    },
)
@click.pass_context
def submit(ctx: click.Context, **_: Any) -> int:
    """Run an experiment on a Ray cluster and follow it."""
    from rllib_ppg_cli.submit import main

    return main(given(ctx), ctx.obj)


@rllib.command(
    cls=Command,
    usage=["evaluate CHECKPOINT [OPTIONS]"],
    params=[_checkpoint()],
    epilog=_TRUST,
    option_groups={
        "Evaluation": [
            _option(
                "--episodes N",
                "Episodes on training levels, and as many on held-out levels. (default: 100)",
                _COUNT,
                default=100,
            ),
            _steps(),
            _option("--out -o FILE", "Also write all results to a JSON file."),
        ],
        "Policy and environment": _PLAY,
    },
)
def evaluate(**options: Any) -> int:
    """Play episodes with a trained policy and print its mean returns."""
    from rllib_ppg_cli.evaluate import main

    return main(**options)


@rllib.command(
    cls=Command,
    usage=["record CHECKPOINT --out FILE [OPTIONS]"],
    params=[_checkpoint()],
    epilog=_TRUST,
    option_groups={
        "Video": [
            _option("--out -o FILE", "The video: .mp4 or .gif.", required=True),
            _option("--episodes N", "Number of episodes. (default: 3)", _COUNT, default=3),
            _steps(),
            _option("--fps N", "Steps per second. (default: the environment's own, or 30)", _COUNT),
        ],
        "Policy and environment": _PLAY,
    },
)
def record(**options: Any) -> int:
    """Record a video of a trained policy's episodes."""
    from rllib_ppg_cli.record import main

    return main(**options)


@rllib.command(
    cls=Command,
    usage=["export CHECKPOINT --out FILE.onnx", "export CHECKPOINT --out FOLDER [OPTIONS]"],
    params=[_checkpoint()],
    epilog=_TRUST,
    option_groups={
        "Policy": [
            _option(
                "--out -o PATH",
                "The model: an .onnx file. Any other name is a new folder with the model, a script "
                "that plays it without Ray or torch, the policy's checkpoint, config.yaml and a "
                "model card.",
                required=True,
            ),
            _option("--module-id ID", "Which policy of a multi-agent run."),
        ],
        "Folder": [
            _option(
                "--episodes N",
                "Play N episodes and add their mean return to the model card. (default: the "
                "returns of the run's results only)",
                _COUNT,
            ),
            _option(
                "--push REPO",
                "Also push the folder to this repository of the Hugging Face Hub, as in "
                "me/ppg-cartpole, with the login of `hf auth login` or HF_TOKEN.",
            ),
        ],
    },
)
def export(**options: Any) -> int:
    """Write a trained policy as an ONNX model or a folder to publish."""
    from rllib_ppg_cli.export import main

    return main(**options)


@rllib.command(
    cls=Command,
    usage=["plot RUN... [OPTIONS]"],
    params=[_runs()],
    option_groups={
        "Picture": [
            _option(
                "--out -o FILE",
                "The picture: .png, .pdf or .svg. (default: plot.png)",
                default="plot.png",
            ),
            _option(
                "--metric RESULT", "The result to draw. (default: env_runners/episode_return_mean)"
            ),
            _option(
                "--against SETTING",
                "Draw final returns against this setting, as in n_pi, instead of curves.",
            ),
            _option(
                "--reference",
                "Add OpenAI's published curves to games in hard mode. (default: none)",
                click.Choice(["openai"]),
            ),
            _option(
                "--reference-experiments A,B,...",
                "Which of them: ppg, ppo, ppg_single, ppgkl, n_pi=2, ... (default: ppg,ppo; with "
                "--against, their sweep)",
            ),
        ]
    },
)
def plot(**options: Any) -> int:
    """Draw the learning curves of runs, or a sweep's final returns."""
    from rllib_ppg_cli.plot import main

    return main(**options)


@rllib.command(
    cls=Command,
    usage=["report RUN... [OPTIONS]"],
    params=[_runs()],
    option_groups={
        "Page": [
            _option(
                "--out -o FILE",
                "The page: one .html file. (default: report.html)",
                default="report.html",
            ),
        ]
    },
)
def report(**options: Any) -> int:
    """Write a page about runs: curves, phases, time and settings."""
    from rllib_ppg_cli.report import main

    return main(**options)


@rllib.group(cls=Group, invoke_without_command=True)
@click.pass_context
def example(ctx: click.Context) -> None:
    """List, print or run the experiments that come with this package."""
    if ctx.invoked_subcommand is None:
        raise click.UsageError("give an action: rllib example list, get NAME or run NAME", ctx)


@example.command("list", cls=Command, usage=["example list"], option_groups={})
def example_list() -> int:
    """List the examples with a line on each."""
    from rllib_ppg_cli.example import main_list

    return main_list()


def _example() -> click.Argument:
    return click.Argument(["file"], metavar="NAME", help="One of `rllib example list`.")


@example.command(
    "get",
    cls=Command,
    usage=["example get NAME > my_experiment.yaml"],
    params=[_example()],
    option_groups={},
)
def example_get(file: str) -> int:
    """Print an example's file, as a start for your own."""
    from rllib_ppg_cli.example import main_get

    return main_get(file)


@example.command(
    "run",
    cls=Command,
    usage=["example run NAME [OPTIONS]"],
    params=[_example()],
    option_groups=_TRAIN,
)
@click.pass_context
def example_run(ctx: click.Context, **_: Any) -> int:
    """Run an example, as `rllib train file NAME` does. Options override what it says."""
    from rllib_ppg_cli.train import main

    return main(given(ctx), ctx.obj)
