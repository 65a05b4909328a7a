"""Real raw tickets in three languages with mojibake, duplicates and conflicting labels, through `triage data prepare`.

python benchmarks/itsm_assignment_prepare.py --out /tmp/itsm
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from record import real_data, triage, write_record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    began = time.monotonic()
    data = options.out / "data"
    triage(
        *("data", "prepare", "itsm_assignment"),
        *("--source", real_data() / "itsm_assignment_8500.parquet", "--out", data),
    )
    triage("data", "verify", data)
    manifest = json.loads((data / "manifest.json").read_text())
    left_out = {"labels", "sources", "fingerprint", "schema_fingerprint"}
    figures = {key: value for key, value in manifest.items() if key not in left_out}
    figures["conflict_example_lines"] = sum(1 for _ in (data / "conflicts.jsonl").open(encoding="utf-8"))
    figures["seconds"] = round(time.monotonic() - began)
    print(write_record("itsm_assignment_prepare", figures))


if __name__ == "__main__":
    main()
