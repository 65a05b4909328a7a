"""How each rank ended, told to the launcher of its node through small files in a folder on that node.

torch's agent ends with 1 whatever happened in the ranks, and the exit code of `triage train` must be the truth.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import fingerprint_json

REPORTS = "TRIAGEKIT_REPORTS"
"""Environment variable: the folder of the reports. Set by the launcher, so a rank has it only below one."""

AGENT_REPORT = "agent.json"


@dataclass(frozen=True)
class RankReport:
    """The end of one rank. signal_number, step and steps are those of a stop; message is what a person should read."""

    rank: int
    end: Literal["finished", "stopped", "refused", "out_of_memory", "failed"]
    message: str = ""
    signal_number: int | None = None
    step: int | None = None
    steps: int | None = None
    peak_bytes: int | None = None
    time: float = 0.0


def write_report(folder: Path, report: RankReport) -> None:
    """Leave the report where the launcher finds it."""
    write_json(folder / f"{report.rank}.json", {**asdict(report), "time": time.time()})


def read_reports(folder: Path) -> list[RankReport]:
    """The reports of this node's ranks, earliest end first; a killed rank has none."""
    found = [RankReport(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("[0-9]*.json")]
    return sorted(found, key=lambda report: report.time)


def write_agent_report(codes: Mapping[int, int]) -> None:
    """Leave the exit codes of the ranks that the agent saw fail, before it ended the others itself."""
    write_json(Path(os.environ[REPORTS]) / AGENT_REPORT, {str(rank): code for rank, code in codes.items()})


def ranks_ended_by(number: int, folder: Path) -> list[int]:
    """Ranks that a signal ended, of those that failed by themselves: SIGKILL comes from the kernel for want of memory,
    or from a person; SIGABRT from C++ code that cannot go on."""
    path = folder / AGENT_REPORT
    codes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return sorted(int(rank) for rank, code in codes.items() if code == -number)


def report_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Report an error nobody foresaw; its traceback is printed by the first rank that has it, not by all."""
    message = "".join(traceback.format_exception_only(error)).strip()
    try:
        (folder / f"traceback-{fingerprint_json(message)[:16]}").touch(exist_ok=False)
    except FileExistsError:
        pass
    else:
        traceback.print_exception(error)
    write_report(folder, RankReport(rank, "failed", message))


def own_rank(environment: Mapping[str, str] | None = None) -> int | None:
    """The rank of this process, or None outside a launcher."""
    values = os.environ if environment is None else environment
    return int(values["RANK"]) if {"RANK", "WORLD_SIZE"} <= values.keys() else None
