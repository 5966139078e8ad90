"""`rllib record`: the videos are read back with PyAV and Pillow."""

import itertools
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import av
import gymnasium as gym
import numpy as np
import pytest
from PIL import Image, ImageSequence

from rllib_ppg.envs.procgen import ProcgenVectorEnv
from rllib_ppg.evaluation import evaluation_videos, video
from rllib_ppg.evaluation.pictures import as_rgb
from rllib_ppg.evaluation.video import captioned, write_video
from rllib_ppg_cli import main
from tests.support.checkpoints import SMALL_CNN, ppo
from tests.support.command import run
from tests.support.envs import Counting
from tests.support.play_envs import Frames, Painted

ROOT = Path(__file__).parent.parent


@pytest.fixture
def quiet_main(quiet):
    return main


def read_mp4(path, height, width):
    """All frames, `[T, H, W, 3]`."""
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        assert (video.height, video.width) == (height, width)
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video)])


def grey_levels(frames):
    """Of the pictures, which begin below a line of 32 pixels."""
    return [round(float(f[32:].mean()) / 40) * 40 for f in frames]


# A picture of the start and of each of 3 steps. The third one is of the next episode, so the
# second stands for the end, for a second: 5 frames at the env's own 5 a second.
EPISODE = [0, 40, 80, *[80] * 5]


def test_two_episodes_as_an_mp4(checkpoint, tmp_path):
    checkpoint(Painted)
    out = tmp_path / "x.mp4"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = run("record", tmp_path, "--out", out, "--episodes", 2, env=env)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "returns: 4.5, 4.5\n" in ended.stdout
    assert f"written: {out} (16 frames, 3 s)" in ended.stdout
    # 64 x 48 pixels, 8 times as large, and the line.
    frames = read_mp4(out, 512 + 32, 384)
    assert grey_levels(frames) == EPISODE * 2
    # The line changes with the return, and with the episode, and with nothing else.
    lines = frames[:, :32].astype(int)
    changes = [bool(np.abs(a - b).max() > 100) for a, b in itertools.pairwise(lines)]
    assert changes == [True, True, True, *[False] * 4, True, True, True, True, *[False] * 4]


def test_steps_end_it_sooner(checkpoint, tmp_path, quiet_main, capsys):
    checkpoint(Painted)
    out = tmp_path / "x.mp4"
    words = ["record", tmp_path, "--out", out, "--episodes", 9, "--steps", 5]
    assert quiet_main([str(word) for word in words]) == 0
    said = capsys.readouterr().out
    assert "returns: 4.5\n--steps ended it after 1 of 9 episodes\n" in said
    assert grey_levels(read_mp4(out, 512 + 32, 384)) == [*EPISODE, 0, 40, 80]


@pytest.mark.parametrize("fps", [5, 29.97])
def test_an_mp4_takes_as_long_as_the_episode(tmp_path, fps):
    frames = (np.full((16, 32, 3), 10 * i, np.uint8) for i in range(20))
    assert write_video(tmp_path / "x.mp4", frames, fps) == 20
    with av.open(str(tmp_path / "x.mp4")) as file:
        assert file.duration / av.time_base == pytest.approx(20 / fps, rel=1e-3)
    assert len(read_mp4(tmp_path / "x.mp4", 16, 32)) == 20


def test_a_file_that_can_t_be_written(tmp_path):
    frames = iter([np.zeros((16, 16, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"x\.mp4 can't be written: .*No such file"):
        write_video(tmp_path / "nowhere" / "x.mp4", frames, 5)


@pytest.mark.parametrize(("fps", "n", "shown"), [(30, 60, 60), (67, 134, 134), (125, 250, 100)])
def test_a_gif_takes_as_long_as_the_episode(tmp_path, fps, n, shown):
    frames = (np.full((8, 8, 3), i, np.uint8) for i in range(n))  # two seconds
    assert write_video(tmp_path / "x.gif", frames, fps) == n
    with Image.open(tmp_path / "x.gif") as gif:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
    assert abs(sum(durations) - 2000) <= 10 and min(durations) >= 20  # it counts in 10 ms
    assert len(durations) <= shown


def test_a_gif_at_another_speed(checkpoint, tmp_path, quiet_main):
    out = tmp_path / "x.gif"
    path = checkpoint(Painted)
    assert quiet_main(["record", path, "--out", str(out), "--episodes", "1", "--fps", "2"]) == 0
    with Image.open(out) as gif:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(gif)]
        # Two frames that are the same are one that lasts as long.
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(gif)] == [
            *[500] * 3,
            1000,
        ]
    assert grey_levels(map(np.asarray, frames)) == [0, 40, 80, 80]
    assert frames[0].size == (384, 544)


def test_the_policies_of_rllib_s_algorithms(checkpoint, tmp_path, quiet_main):
    path = checkpoint(Painted, config=ppo)
    out = tmp_path / "x.mp4"
    assert quiet_main(["record", path, "--out", str(out), "--episodes", "2"]) == 0
    # There the picture after the last step is of the end.
    levels = grey_levels(read_mp4(out, 544, 384))
    assert levels == [0, 40, 80, *[120] * 5, *[40, 80], *[120] * 5]


def test_observations_stand_in_for_pictures(checkpoint, tmp_path, quiet_main):
    path = checkpoint(Frames)
    out = tmp_path / "x.mp4"
    assert quiet_main(["record", path, "--out", str(out), "--episodes", "1"]) == 0
    # 30 frames a second, for want of the env's own number.
    assert grey_levels(read_mp4(out, 544, 512)) == [0, 40, 80, *[80] * 30]


@pytest.mark.long
def test_procgen_s_large_pictures(checkpoint, tmp_path, quiet_main):
    path = checkpoint("procgen-bigfish-v0", {"distribution_mode": "easy"}, model_config=SMALL_CNN)
    out = tmp_path / "x.gif"
    assert quiet_main(["record", path, "--out", str(out), "--episodes", "1"]) == 0
    env = ProcgenVectorEnv("bigfish", 1, render_mode="rgb_array", distribution_mode="easy")
    env.reset(seed=0)
    [picture] = env.render()
    with Image.open(out) as gif:
        first = np.asarray(gif.convert("RGB")).astype(int)
    env.close()
    assert first.shape == (544, 512, 3)
    assert np.abs(first[32:] - picture).mean() < 10  # a GIF has 256 colours


def test_small_pictures_are_enlarged_pixel_by_pixel():
    picture = np.random.default_rng(0).integers(0, 256, (84, 85, 3), np.uint8)
    frame = captioned(picture, 1, 0.0)
    # 7 times, which is 595 wide; an even number of pixels is wanted.
    assert frame.shape == (32 + 7 * 84, 596, 3)
    np.testing.assert_array_equal(frame[32 + 3 : 32 + 588 : 7, 3:595:7], picture)
    assert captioned(np.zeros((400, 600, 3), np.uint8), 1, 0.0).shape == (432, 600, 3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("", "Missing option '--out'"),
        ("--out x.mpg", "ends in .mp4 or .gif"),
        ("--out x.gif --episodes 0", "'--episodes': 0 is not in the range x>=1"),
        ("--out x.gif --fps 0", "'--fps': 0 is not in the range x>=1"),
        ("--out x.gif", "the env has no pictures"),
    ],
)
def test_bad_input_is_one_sentence(checkpoint, capsys, quiet_main, tmp_path, options, complaint):
    path = checkpoint(Counting)
    options = options.replace("x.", f"{tmp_path}/x.")
    assert quiet_main(["record", path, *shlex.split(options)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("rllib: error: ")
    assert err.count("\n") == 1
    assert complaint in err


GREY = np.arange(12, dtype=np.int64).reshape(4, 3)
RGB = np.arange(36).reshape(4, 3, 3)


@pytest.mark.parametrize(
    ("rendered", "shown"),
    [
        (RGB.astype(np.uint8), RGB),
        (RGB, RGB),
        (RGB.tolist(), RGB),
        (np.concatenate([RGB, np.full((4, 3, 1), 255)], axis=-1), RGB),  # RGBA
        (GREY, np.stack([GREY] * 3, axis=-1)),
        (GREY[..., None], np.stack([GREY] * 3, axis=-1)),
    ],
)
def test_what_envs_render_becomes_rgb(rendered, shown):
    picture = as_rgb(rendered)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, shown)
    assert captioned(picture, 1, 0.0).any()


@pytest.mark.parametrize(
    ("rendered", "what"),
    [
        (RGB / 35, r"\[4, 3, 3\] of float64 from 0 to 1$"),
        (RGB * 10, r"\[4, 3, 3\] of int64 from 0 to 350$"),
        (np.zeros((3, 8, 8), np.uint8), r"\[3, 8, 8\] of uint8 from 0 to 0$"),
        (None, r"\[\] of object$"),
        (np.zeros((0, 8, 3), np.uint8), r"\[0, 8, 3\] of uint8$"),
    ],
)
def test_pictures_that_can_t_be_shown_are_described(rendered, what):
    player = SimpleNamespace(pictures=lambda: [rendered])
    with pytest.raises(ValueError, match=rf"whole numbers from 0 to 255 \(uint8\), not {what}"):
        video._picture(player)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no pictures"), "no pictures"),
        (TypeError("a\nb"), "TypeError: a b"),
        (OSError(28, "No space left"), "OSError: [Errno 28] No space left"),
    ],
)
def test_training_goes_on_without_a_video(tmp_path, monkeypatch, error, reason):
    def film(*args):
        raise error

    monkeypatch.setattr(evaluation_videos, "_film", film)
    callback, result = evaluation_videos.EvaluationVideos(), {"evaluation": {}}
    callback.on_evaluate_end(algorithm=SimpleNamespace(logdir=tmp_path, iteration=0))
    callback.on_train_result(result=result)
    assert result == {"evaluation": {"no_video": reason}}


def test_a_package_to_draw_with_is_named_as_it_is_installed():
    def pictures():
        raise gym.error.DependencyNotInstalled("pygame is not installed, run `pip install ...`")

    with pytest.raises(ValueError, match=r"pip install 'rllib-ppg\[video\]'"):
        video._picture(SimpleNamespace(pictures=pictures))
