"""How long `triage demo` takes on this machine, step by step.

python benchmarks/demo_time.py --out /tmp/demo
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from record import triage, write_record

from triagekit.cli.commands.demo import ROWS, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    seconds = {}
    for words in steps(options.out, rows=ROWS, archive_rows=600, seeds=2):
        began = time.monotonic()
        triage(*words, "--offline")
        seconds[" ".join(words[:2]) + (f" #{len(seconds) + 1}")] = round(time.monotonic() - began, 1)
    runs = {}
    for folder in sorted((options.out / "runs").iterdir()):
        metrics = json.loads((folder / "eval" / "test" / "metrics.json").read_text())
        fields = {name: values["accuracy"] for name, values in metrics["fields"].items() if "accuracy" in values}
        runs[folder.name] = {"exact_match": metrics["exact_match"], "accuracy": fields}
    print(write_record("demo_time", {"seconds": seconds, "total": round(sum(seconds.values()), 1), "runs": runs}))


if __name__ == "__main__":
    main()
