"""Videos of a policy's episodes: pictures at a readable size, below a line with the return.

Shapes: frames `[H, W, 3]`, uint8.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.evaluation.pictures import as_rgb
from rllib_ppg.evaluation.players import OnProgress, Player, make_player
from rllib_ppg.evaluation.trained_policy import TrainedPolicy

SUFFIXES = (".mp4", ".gif")
_FPS = 30
_MIN_SIZE = 512  # pixels of the longer side
_LINE_HEIGHT, _FONT_SIZE = 32, 20  # pixels
_HOLD_S = 1.0  # how long the end of an episode is shown

# Called with the return of each episode as it ends.
OnEpisode = Callable[[float], None]


def use_no_display() -> None:
    """Lets pygame work without a screen and loudspeakers, and MuJoCo without a screen."""
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
    max_steps: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[list[float], int, float]:
    """Records a policy that plays an env.

    Args:
        policy: The policy.
        config: The env and how it is played (see `TrainedPolicy.config_with`).
        path: The file to write, an .mp4 or .gif.
        episodes: Number of episodes.
        seed: Seed of the env and the actions.
        explore: Whether to sample actions or to take the most probable ones.
        fps: Steps shown per second; None: as the env says, or 30.
        max_steps: Number of env steps after which the video ends, or None.
        on_progress: See `OnProgress`.

    Returns:
        The returns of the episodes that ended, the number of frames, and the frames per second.

    Raises:
        ValueError: The env can't be made or has no pictures, or the file can't be written.
    """
    use_no_display()
    player = make_player(policy, config, num_envs=1, seed=seed, explore=explore, render=True)
    fps = fps or player.fps or _FPS
    returns: list[float] = []
    frames = episode_frames(
        player, episodes, fps, returns.append, max_steps=max_steps, on_progress=on_progress
    )
    try:
        count = write_video(path, frames, fps)
    finally:
        player.close()
    return returns, count, fps


def check_video_file(path: Path) -> None:
    """Raises ValueError unless the name of `path` ends in .mp4 or .gif."""
    if path.suffix not in SUFFIXES:
        hint = did_you_mean(path.suffix, SUFFIXES)
        raise ValueError(f"the name of a video ends in .mp4 or .gif, unlike {path.name}{hint}")


def episode_frames(
    player: Player,
    episodes: int,
    fps: float,
    on_episode: OnEpisode,
    *,
    max_steps: int | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[np.ndarray]:
    """Plays episodes and yields their frames.

    If the env shows the start of the next episode after the last step of one (see `Player`), the
    picture before that step is shown as the end.

    Args:
        player: A player of one env.
        episodes: Number of episodes.
        fps: Frames per second; the end of an episode is held for a second.
        on_episode: See `OnEpisode`.
        max_steps: Number of env steps after which the frames end, or None.
        on_progress: See `OnProgress`.

    Raises:
        ValueError: The env has no pictures, or none that can be shown.
    """
    picture, episode_return = _picture(player), 0.0
    yield captioned(picture, 1, episode_return)
    episode, steps = 1, 0
    while episode <= episodes and (max_steps is None or steps < max_steps):
        step = player.step()
        steps += int(step.valid[0])
        if on_progress:
            on_progress(episode - 1 + int(step.ended[0]), steps)
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
    """A frame: the picture `[h, w, 3]`, enlarged to at least 512 pixels, below a line of text."""
    scale = -(-_MIN_SIZE // max(picture.shape[:2]))
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width, _ = picture.shape
    # H.264 needs even numbers of pixels.
    frame = Image.new("RGB", (width + width % 2, _LINE_HEIGHT + height + height % 2))
    frame.paste(Image.fromarray(picture), (0, _LINE_HEIGHT))
    text = f"episode {episode}   return {episode_return:.4g}{'   end' if ended else ''}"
    ImageDraw.Draw(frame).text(
        (10, _LINE_HEIGHT // 2), text, "white", ImageFont.load_default(_FONT_SIZE), anchor="lm"
    )
    return np.asarray(frame)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Writes frames to an .mp4 or .gif file and returns their number.

    Raises:
        ValueError: The file can't be written.
    """
    return (_write_gif if path.suffix == ".gif" else _write_mp4)(path, frames, fps)


def _picture(player: Player) -> np.ndarray:
    try:
        pictures = player.pictures()
    except Exception as e:  # no display, no driver, no package to draw with
        what = " ".join(str(e).split())
        if "pygame" in what:  # gymnasium names an extra for each kind of its envs
            what = "it needs pygame: pip install 'rllib-ppg[video]'"
        raise ValueError(f"the env can't draw its pictures: {what}") from e
    if pictures is None:
        raise ValueError("the env has no pictures: it does not support render_mode='rgb_array'")
    return as_rgb(pictures[0])


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Writes a GIF of at most 50 frames per second; other frames are left out.

    Times in a GIF are multiples of 10 ms, and viewers show frames of less than 20 ms for 100 ms.
    """
    starts: list[int] = []  # in units of 10 ms
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
    try:
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
            rate = Fraction(fps).limit_denominator(1000)
            video = file.add_stream("libx264", rate=rate, options={"crf": "18"})
            video.height, video.width, _ = first.shape
            video.pix_fmt = "yuv420p"
            for frame in itertools.chain([first], frames):
                file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                count += 1
            file.mux(video.encode())
    except av.FFmpegError as e:
        raise ValueError(f"{path} can't be written: {e}") from e
    return count
