"""Records a command in a terminal as a GIF, for the documentation.

    python -m benchmarks.terminal docs/terminal.gif rllib train file procgen_small

The command runs for real; what is shown is what it printed, in its own time, waits cut short.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

COLUMNS, ROWS = 100, 22
FONT_SIZE = 15
LONGEST_WAIT_S, SHORTEST_WAIT_S, LAST_WAIT_S = 0.8, 0.2, 4.0
BACKGROUND, FOREGROUND = "#1e1e1e", "#e6e6e6"
_WIPE = "\r\x1b[K"  # what the live line is wiped with
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def main(out: str, command: list[str]) -> None:
    """Runs the command and writes `out`."""
    recorded = record(command)
    # What is there for a moment only is not seen, and makes the file large.
    screens = [s for s in recorded[:-1] if s[1] >= SHORTEST_WAIT_S] + recorded[-1:]
    waits = [1000 * min(wait, LONGEST_WAIT_S) for _, wait in screens]
    waits[-1] = 1000 * LAST_WAIT_S
    first, *others = [draw(text).quantize(8) for text, _ in screens]
    first.save(
        out,
        save_all=True,
        append_images=others,
        duration=waits,
        loop=0,
        optimize=True,
    )
    print(f"{out}: {len(screens)} screens")


def record(command: list[str]) -> list[tuple[str, float]]:
    """Returns what the terminal showed, and for how many seconds."""
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    screens: list[tuple[str, float]] = []
    text, shown_at = f"$ {shlex.join(command)}\n", time.monotonic()
    with subprocess.Popen(command, stdin=side, stdout=side, stderr=side) as process:
        os.close(side)
        while True:
            try:
                new = os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # the command has ended
                break
            screens.append((text, time.monotonic() - shown_at))
            text, shown_at = shown(text + new), time.monotonic()
        if process.wait():
            sys.exit(f"{shlex.join(command)} ended with exit code {process.returncode}")
    return [*screens, (text, 0.0)]


def shown(text: str) -> str:
    """Applies what wipes a line, and leaves out colours."""
    lines = text.replace("\r\n", "\n").split("\n")
    return _COLOUR.sub("", "\n".join(line.rsplit(_WIPE, 1)[-1] for line in lines))


def draw(text: str) -> Image.Image:
    """Draws the last lines of a text as a terminal does."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf")
    font = ImageFont.truetype(file, FONT_SIZE)
    width, height, margin = font.getlength("M"), FONT_SIZE * 1.3, FONT_SIZE
    lines = [
        line[i : i + COLUMNS]
        for line in text.rstrip("\n").replace(str(Path.home()), "~").split("\n")
        for i in range(0, max(len(line), 1), COLUMNS)
    ]
    size = (int(COLUMNS * width + 2 * margin), int(ROWS * height + 2 * margin))
    picture = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for row, line in enumerate(lines[-ROWS:]):
        pen.text((margin, margin + row * height), line, FOREGROUND, font)
    return picture


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
