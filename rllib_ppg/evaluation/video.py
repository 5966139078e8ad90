"""Videos of a policy's episodes: pictures at a readable size, under a line with the return."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.evaluation.players import Player, make_player
from rllib_ppg.evaluation.trained_policy import TrainedPolicy

SUFFIXES = (".mp4", ".gif")
_FPS = 30
_READABLE = 512  # pixels, of the longer side
_LINE, _TEXT = 32, 20  # pixels: the line's height, and its letters'
_HOLD_S = 1.0  # how long an episode's end is shown

# Called with the return of each episode as it ends.
OnEpisode = Callable[[float], None]


def use_no_display() -> None:
    """Keeps pygame from looking for a screen and loudspeakers, and MuJoCo for a screen."""
    for kind in ("VIDEO", "AUDIO"):
        os.environ.setdefault(f"SDL_{kind}DRIVER", "dummy")
    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")


def film(
    policy: TrainedPolicy,
    config: AlgorithmConfig,
    path: Path,
    *,
    episodes: int,
    seed: int,
    explore: bool,
    fps: float | None = None,
) -> tuple[list[float], int, float]:
    """Has a policy play an env, and writes what it looks like.

    Args:
        policy: the policy.
        config: the env and how it is played (see `TrainedPolicy.config_with`).
        path: an .mp4 or .gif.
        episodes: how many to play.
        seed: of the env and the actions.
        explore: whether to sample actions, or take the most probable ones.
        fps: steps shown a second; None: as many as the env says, or 30.

    Returns:
        The episodes' returns, and the number of frames and how many of them are a second.

    Raises:
        ValueError: The env can't be made or has no pictures, or the file can't be written.
    """
    use_no_display()
    player = make_player(policy, config, num_envs=1, seed=seed, explore=explore, render=True)
    fps = fps or player.fps or _FPS
    returns: list[float] = []
    try:
        count = write_video(path, episode_frames(player, episodes, fps, returns.append), fps)
    finally:
        player.close()
    return returns, count, fps


def check_video_file(path: Path) -> None:
    """Raises ValueError unless `path` is named like a video that can be written here."""
    if path.suffix not in SUFFIXES:
        hint = did_you_mean(path.suffix, SUFFIXES)
        raise ValueError(f"a video's name ends in .mp4 or .gif, not as {path.name}{hint}")
    if path.suffix == ".mp4":
        _ffmpeg()


def episode_frames(
    player: Player, episodes: int, fps: float, on_episode: OnEpisode
) -> Iterator[np.ndarray]:
    """Has a player of one env play; yields frames, uint8 `[H, W, 3]`.

    Where the env shows the next episode's start after the last step of one (`Player`), the picture
    before that step stands for the end.

    Args:
        player: of one env.
        episodes: how many to play.
        fps: frames a second, for how long an episode's end is held.
        on_episode: see `OnEpisode`.

    Raises:
        ValueError: The env has no pictures.
    """
    picture, episode_return = _picture(player), 0.0
    yield captioned(picture, 1, episode_return)
    episode = 1
    while episode <= episodes:
        step = player.step()
        before, picture = picture, _picture(player)
        episode_return += float(step.rewards[0])
        if not step.ended[0]:
            yield captioned(picture, episode, episode_return)
            continue
        end = captioned(
            before if player.shows_next_episode else picture, episode, episode_return, ended=True
        )
        for _ in range(max(1, round(_HOLD_S * fps))):
            yield end
        on_episode(episode_return)
        episode, episode_return = episode + 1, 0.0
        if player.shows_next_episode and episode <= episodes:
            yield captioned(picture, episode, episode_return)


def captioned(
    picture: np.ndarray, episode: int, episode_return: float, *, ended: bool = False
) -> np.ndarray:
    """A picture, `[h, w, 3]`, at least 512 pixels wide or high, under a line of text."""
    scale = -(-_READABLE // max(picture.shape[:2]))
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width, _ = picture.shape
    # Even numbers of pixels, which H.264 in its common form needs.
    frame = Image.new("RGB", (width + width % 2, _LINE + height + height % 2))
    frame.paste(Image.fromarray(picture), (0, _LINE))
    text = f"episode {episode}   return {episode_return:.4g}{'   end' if ended else ''}"
    ImageDraw.Draw(frame).text(
        (10, _LINE // 2), text, "white", ImageFont.load_default(_TEXT), anchor="lm"
    )
    return np.asarray(frame)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Writes frames, uint8 `[H, W, 3]`, to an .mp4 or .gif file; returns how many there were.

    Raises:
        ValueError: The file can't be written.
    """
    return (_write_gif if path.suffix == ".gif" else _write_mp4)(path, frames, fps)


def _picture(player: Player) -> np.ndarray:
    try:
        pictures = player.pictures()
    except Exception as e:  # no display, no driver, no package to draw with
        raise ValueError(f"the env can't draw its pictures: {' '.join(str(e).split())}") from e
    if pictures is None:
        raise ValueError("the env has no pictures: it does not know render_mode='rgb_array'")
    picture = np.asarray(pictures[0])
    if picture.shape[-1] == 3:
        return picture
    # Grey frames, stacked the one way or the other: the latest is the last.
    latest = picture[-1] if picture.shape[0] <= picture.shape[-1] else picture[..., -1]
    return latest if latest.ndim == 3 else latest[..., None].repeat(3, axis=-1)


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Leaves frames out where there are more than 50 a second.

    Times in a GIF are multiples of 10 ms, and what is to be shown for less than 20 is shown for a
    tenth of a second.
    """
    starts: list[int] = []  # in 10 ms
    images, count = [], 0
    for frame in frames:
        start = round(100 * count / fps)
        if not starts or start >= starts[-1] + 2:
            starts.append(start)
            images.append(Image.fromarray(frame).quantize())
        count += 1
    ends = [*starts[1:], max(starts[-1] + 2, round(100 * count / fps))]
    durations = [10 * (end - start) for start, end in zip(starts, ends, strict=True)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
    return count


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    frames = iter(frames)
    first, count = next(frames), 0
    height, width, _ = first.shape
    command = [
        *(_ffmpeg(), "-y", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps}"),
        *("-i", "-", "-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p"),
        *("-movflags", "+faststart", str(path)),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as ffmpeg:
        assert ffmpeg.stdin and ffmpeg.stderr
        try:
            for frame in itertools.chain([first], frames):
                ffmpeg.stdin.write(frame.tobytes())
                count += 1
            ffmpeg.stdin.close()
        except BrokenPipeError:
            pass  # what ffmpeg has to say comes below
        said = ffmpeg.stderr.read().decode().strip()
    if ffmpeg.returncode:
        raise ValueError(f"ffmpeg can't write {path}: {' '.join(said.split())}")
    return count


def _ffmpeg() -> str:
    """The ffmpeg of IMAGEIO_FFMPEG_EXE, of the system, or of the imageio-ffmpeg package.

    Procgen pins that package to a version that can't be imported beside today's setuptools; the
    program in it runs all the same.
    """
    if found := os.environ.get("IMAGEIO_FFMPEG_EXE") or shutil.which("ffmpeg"):
        return found
    package = importlib.util.find_spec("imageio_ffmpeg")
    for folder in (package and package.submodule_search_locations) or ():
        for program in sorted(Path(folder, "binaries").glob("ffmpeg*")):
            return str(program)
    raise ValueError("an .mp4 needs ffmpeg: `pip install imageio-ffmpeg`, or record a .gif")
