"""Stand-ins for Slurm's commands: they print what a test says, in turn, and keep what they were asked."""

from __future__ import annotations

import json
import shlex
import stat
import sys
from pathlib import Path

_SCRIPT = """#!{python}
import json, os, sys
folder, name = {folder!r}, {name!r}
with open(os.path.join(folder, "calls.jsonl"), "a") as handle:
    text = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    record = [name, sys.argv[1:], text, {{k: v for k, v in os.environ.items() if k.startswith(("SLURM", "RANK"))}}]
    handle.write(json.dumps(record) + "\\n")
path = os.path.join(folder, name + ".json")
answers = json.load(open(path))
out, err, code = answers[0]
if len(answers) > 1:
    json.dump(answers[1:], open(path, "w"))
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


class FakeSlurm:
    """Commands in a folder of their own; the last answer of each is given for ever."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.answers("squeue", ("", "", 0))
        self.partitions("gpuA|up", "gpuL|up", "gpuV|up", "gpuS|up", "gpu|up", "cpu*|up", "multicore|up")

    def answers(self, command: str, *answers: tuple[str, str, int]) -> None:
        """What `command` prints on stdout and stderr, and its exit status, call by call."""
        (self.folder / f"{command}.json").write_text(json.dumps(answers))
        script = self.folder / command
        script.write_text(_SCRIPT.format(python=sys.executable, folder=str(self.folder), name=command))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def partitions(self, *entries: str) -> None:
        """`name|availability` or `name|availability|node states` of each partition."""
        lines = []
        for entry in entries:
            name, available, *state = entry.split("|")
            lines.append(
                "\x1f".join([name, available, "infinite", "2", *(state or ["idle"]), "(null)", "x", "8", "8000"])
            )
        self.answers("sinfo", ("\n".join(lines) + "\n", "", 0))

    def calls(self, command: str) -> list[list[str]]:
        """The words of every call of `command`."""
        return [words for name, words, _, _ in self._all() if name == command]

    def inputs(self, command: str) -> list[str]:
        """What every call of `command` was given on stdin."""
        return [text for name, _, text, _ in self._all() if name == command]

    def environments(self, command: str) -> list[dict[str, str]]:
        """The SLURM and RANK variables of every call of `command`."""
        return [environment for name, _, _, environment in self._all() if name == command]

    def _all(self) -> list[list]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def starts(when: str, partition: str = "gpuA") -> tuple[str, str, int]:
    """What `sbatch --test-only` says."""
    return ("", f"sbatch: Job 8 to start at {when} using 1 processors on nodes a1 in partition {partition}\n", 0)


def refused(message: str) -> tuple[str, str, int]:
    """What a command that fails says."""
    return ("", f"sbatch: error: {message}\n", 1)


def words_after(option: str, text: str) -> str:
    """The value of one option of a rendered script."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"#SBATCH --{option}=")]
    return shlex.split(line.partition("=")[2])[0]


def processed_data(folder: Path) -> None:
    """As much of a processed data set as planning and submitting look at."""
    folder.mkdir(parents=True)
    manifest = {"name": "x", "schema": "it_tickets", "schema_fingerprint": "0", "fingerprint": "0", "files": {}}
    counts = {"train": 100, "val": 10, "test": 10}
    (folder / "manifest.json").write_text(json.dumps({"counts": counts, **manifest}))
