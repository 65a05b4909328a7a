#!/usr/bin/env python3
"""A stand-in for sacct where no accounting database runs, over `scontrol show job`: what submitit 1.5 asks for.

Understands -j, -o/--format, --parsable2/-P, -n, -X. Not a module to import: the cluster links it as bin/sacct.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

COLUMNS = {"jobid": "JobID", "jobidraw": "JobIDRaw", "state": "State", "nodelist": "NodeList", "exitcode": "ExitCode"}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-j", "--jobs", action="append", default=[])
    parser.add_argument("-o", "--format", default="JobID,State,ExitCode")
    parser.add_argument("-P", "--parsable2", action="store_true")
    parser.add_argument("-n", "--noheader", action="store_true")
    parser.add_argument("-X", "--allocations", action="store_true")
    arguments, _ = parser.parse_known_args()
    shown = subprocess.run(["scontrol", "show", "job", "-o", "-a"], capture_output=True, text=True)
    if shown.returncode:
        print(shown.stderr, end="", file=sys.stderr)
        return shown.returncode
    wanted = {job for jobs in arguments.jobs for job in jobs.split(",")}
    columns = [column.split("%")[0].lower() for column in arguments.format.split(",")]
    delimiter = "|" if arguments.parsable2 else " "
    if not arguments.noheader:
        print(delimiter.join(COLUMNS.get(column, column) for column in columns))
    for line in shown.stdout.splitlines():
        for row in rows_of(line, wanted, arguments.allocations):
            print(delimiter.join(row.get(column, "") for column in columns))
    return 0


def rows_of(line: str, wanted: set[str], allocations_only: bool) -> list[dict[str, str]]:
    """The rows of one job: itself and, unless only allocations are asked for, its batch step."""
    job = dict(re.findall(r"([A-Za-z:/]+)=(\S*)", line))
    if "JobId" not in job:
        return []
    number, array, task = job["JobId"], job.get("ArrayJobId"), job.get("ArrayTaskId", "")
    name = f"{array}_{task if task.isdigit() else f'[{task}]'}" if array else number
    if wanted and not wanted & {name, number, array}:
        return []
    row = {column.lower(): value for column, value in job.items()}
    row |= {"jobid": name, "jobidraw": number, "state": job["JobState"], "nodelist": job.get("NodeList", "")}
    if allocations_only or job["JobState"] == "PENDING":
        return [row]
    return [row, {**row, "jobid": f"{name}.batch"}]


if __name__ == "__main__":
    sys.exit(main())
