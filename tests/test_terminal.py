"""What a command does when its output goes away, and when a signal comes before all else."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.command import RLLIB, run

COMMAND = [sys.executable, "-c"]
PRINTS = """
import sys
from rllib_ppg_cli import signals, terminal

signals.raise_them()
terminal.survive()
print("first", flush=True)
sys.stdin.readline()  # until the test has closed what it closes
print("second \\u00b1", flush=True)
print("third", flush=True)
"""


@pytest.mark.unit
def test_a_closed_pipe_ends_a_command_without_a_word():
    with subprocess.Popen(
        [*COMMAND, PRINTS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.unit
def test_a_pipe_that_is_closed_before_the_last_lines_are_written():
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([RLLIB, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.unit
@pytest.mark.parametrize("closed", ["&-", "/dev/full"])
def test_output_that_cannot_be_written_does_not_end_a_command(closed):
    ended = subprocess.run(
        ["bash", "-c", f'"$@" >{closed}', "bash", *COMMAND, PRINTS],
        input="\n",
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    if closed == "/dev/full":
        assert "the output continues here: No space left on device" in ended.stderr
        assert "first\nsecond ±\nthird\n" in ended.stderr


@pytest.mark.unit
def test_a_terminal_that_is_gone_and_one_that_writes_ascii_only():
    master, slave = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, PRINTS],
        stdin=subprocess.PIPE,
        stdout=slave,
        stderr=slave,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    os.close(slave)
    assert os.read(master, 100) == b"first\r\n"
    os.close(master)
    process.communicate("\n", timeout=60)
    assert process.returncode == 0
    ended = subprocess.run(
        [*COMMAND, PRINTS],
        input="\n",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert (ended.stdout, ended.stderr) == ("first\nsecond ?\nthird\n", "")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated"), ("SIGHUP", 129, "terminated")],
)
def test_a_signal_while_modules_are_imported(tmp_path, name, code, words):
    signals = f"import os, signal\nos.kill(os.getpid(), signal.{name})\nraise ImportError"
    (tmp_path / "click.py").write_text(signals)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    ended = run("--help", env=os.environ | {"PYTHONPATH": f"{tmp_path}:{sys.path[0]}"})
    signal.signal(signal.SIGHUP, before)
    assert (ended.returncode, ended.stderr) == (code, f"rllib: {words}\n")


@pytest.mark.unit
def test_what_nohup_ignores_stays_ignored():
    program = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + PRINTS
    program += "signal.raise_signal(signal.SIGHUP)\nprint('fourth')\n"
    ended = subprocess.run([*COMMAND, program], input="\n", capture_output=True, text=True)
    assert ended.stdout.endswith("fourth\n")


@pytest.mark.faults
def test_orphans_of_ray_are_killed_and_others_are_not():
    program = """
import os, subprocess, sys
import ray
from rllib_ppg.resources.ray_processes import adopt_orphans, kill_ray_processes

adopt_orphans()
agent = [sys.executable, "-c", "import time; time.sleep(1000)", ray.__path__[0] + "/agent.py"]
other = agent[:-1]
parent = '''
import subprocess, sys
print(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid)
'''
pids = [
    int(subprocess.run([sys.executable, "-c", parent, *one], stdout=subprocess.PIPE).stdout)
    for one in (agent, other)
]
kill_ray_processes()
try:
    os.kill(pids[0], 0)
    print("alive")
except ProcessLookupError:
    print("gone")
os.kill(pids[1], 9)  # raises if it is gone
"""
    ended = subprocess.run([*COMMAND, program], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("gone\n", "")
