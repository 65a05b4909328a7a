"""The text of one batch script: options sorted and quoted as sbatch reads them, a body in bash."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./\[\]-]+")
_NAME = re.compile(r"[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class SbatchScript:
    """What one job asks for and does. `options` are sbatch's long names; None is a bare option (`requeue`).

    `title` lines and `reasons` (why an option is as it is) become comments for people.
    """

    options: Mapping[str, str | None]
    body: Sequence[str]
    title: Sequence[str] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    shell: str = "/bin/bash"

    def with_options(self, **changes: str | None) -> SbatchScript:
        """A copy with other options; underscores stand for dashes (`job_name=…`)."""
        return replace(self, options={**self.options, **{key.replace("_", "-"): v for key, v in changes.items()}})

    def without_options(self, *names: str) -> SbatchScript:
        """A copy that leaves these options out."""
        return replace(self, options={key: value for key, value in self.options.items() if key not in names})

    def render(self) -> str:
        """The script. Raises ValueError for an option name or value that sbatch could not read back."""
        lines = [f"#!{self.shell}", *(f"# {' '.join(line.split())}" for line in self.title)]
        for name in sorted(self.options):
            if name in self.reasons:
                lines.extend(f"# {line}" for line in self.reasons[name].splitlines())
            lines.append(option_line(name, self.options[name]))
        return "\n".join([*lines, "", "set -euo pipefail", *self.body, ""])


def option_line(name: str, value: str | None) -> str:
    """One `#SBATCH` line. Raises ValueError for what sbatch could not read back."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name}' is not the long name of an sbatch option")
    return f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={sbatch_quote(value)}"


def sbatch_quote(value: str) -> str:
    """`value` as sbatch reads it back from a #SBATCH line.

    Not the shell's rules: inside either kind of quotes a backslash takes the next character as it is, and nothing is
    expanded. Raises ValueError for line ends, which sbatch cannot hold.
    """
    if any(character in value for character in "\n\r\0"):
        raise ValueError(f"sbatch options cannot hold line ends: {value!r}")
    if _PLAIN.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def file_pattern(path: str) -> str:
    """`path` for --output: what sbatch would take for a pattern (`%j`) or strip (a backslash) is kept literally."""
    if "\\" in path:
        raise ValueError(f"Slurm cannot write logs to a path with a backslash: {path}")
    return path.replace("%", "%%")


def shell_value(text: str) -> str:
    """`text` in double quotes for bash: `$NAME` and `${NAME:-…}` are expanded, nothing is executed."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"').replace("`", "\\`").replace("$(", "\\$(")
    return f'"{safe}"'


def job_name(text: str) -> str:
    """A name for the queue: letters, digits, dot, dash and underscore, so that no tool has to quote it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "job"
