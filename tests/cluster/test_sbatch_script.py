"""The text of a batch script: sorted, quoted as sbatch reads it, and nothing in it that bash could stumble over."""

from __future__ import annotations

import re
import subprocess

import pytest

from triagekit.cluster.sbatch_script import SbatchScript, file_pattern, job_name, option_line, sbatch_quote, shell_value

NASTY = [
    "a b",
    "it's",
    'say "hi"',
    "back\\slash",
    "#hash",
    "$HOME",
    "`id`",
    "ü ñ",
    "tab\there",
    "'",
    '"',
    "a'b\"c\\d e",
]


def read_as_sbatch_does(line):
    """sbatch's own rules (src/sbatch/opt.c): quotes of both kinds, a backslash takes the next character anywhere."""
    value, quote, escaped = "", "", False
    for character in line.partition("=")[2]:
        if escaped:
            value, escaped = value + character, False
        elif character == "\\":
            escaped = True
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        elif not quote and (character.isspace() or character == "#"):
            break
        else:
            value += character
    assert not quote and not escaped
    return value


@pytest.mark.parametrize("value", [*NASTY, "plain", "gpu:a100:2", "1-12:00:00", "USR2@120", "0-5%2", ""])
def test_sbatch_reads_back_what_was_meant(value):
    assert read_as_sbatch_does(option_line("output", value)) == value


def test_simple_values_stay_readable():
    assert option_line("gres", "gpu:a100:2") == "#SBATCH --gres=gpu:a100:2"
    assert option_line("requeue", None) == "#SBATCH --requeue"


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
def test_line_ends_are_refused(value):
    with pytest.raises(ValueError, match="line ends"):
        sbatch_quote(value)


@pytest.mark.parametrize("name", ["", "-p", "Output", "out put", "out=put", "out\nput"])
def test_names_that_are_no_options_are_refused(name):
    with pytest.raises(ValueError, match="not the long name"):
        option_line(name, "x")


def test_options_are_sorted_and_come_before_any_command():
    text = SbatchScript(
        {"time": "1:00", "array": "0-3", "mem": "1G"}, ["echo x"], title=["what\n#SBATCH --evil"]
    ).render()
    options = re.findall(r"^#SBATCH --(\S+?)=", text, flags=re.MULTILINE)
    assert options == ["array", "mem", "time"]
    assert text.index("#SBATCH --time") < text.index("set -euo pipefail") < text.index("echo x")
    assert text.startswith("#!/bin/bash\n") and text.endswith("echo x\n")


def test_changing_options_makes_another_script():
    script = SbatchScript({"time": "1:00", "mem": "1G"}, [])
    assert script.with_options(job_name="x").options == {"time": "1:00", "mem": "1G", "job-name": "x"}
    assert script.without_options("mem").options == {"time": "1:00"}
    assert script.options == {"time": "1:00", "mem": "1G"}


@pytest.mark.parametrize("value", [*NASTY, "$(touch evil)", "a`touch evil`b", "${X:-$(touch evil)}"])
def test_shell_values_expand_variables_and_run_nothing(value, tmp_path):
    done = subprocess.run(
        ["bash", "-uc", f'HOME=/home/me X=x; printf "%s" {shell_value(value)}'],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert not (tmp_path / "evil").exists()
    assert done.stdout == value.replace("$HOME", "/home/me").replace("${X:-$(touch evil)}", "x")


def test_defaults_of_variables_work_in_shell_values():
    done = subprocess.run(
        ["bash", "-uc", f"printf %s {shell_value('${SCRATCH_OF_MINE:-/tmp/$USER}/x')}"],
        capture_output=True, text=True, env={"USER": "me", "PATH": "/usr/bin:/bin"}, check=True,
    )  # fmt: skip
    assert done.stdout == "/tmp/me/x"


def test_names_and_log_paths_that_slurm_would_misread():
    assert job_name("it's a run/é") == "it-s-a-run"
    assert job_name("///") == "job"
    assert file_pattern("runs/100%j/jobs") == "runs/100%%j/jobs"
    with pytest.raises(ValueError, match="backslash"):
        file_pattern("runs/a\\b")
