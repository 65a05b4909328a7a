"""Real multi-field tickets: a schema drafted from the data, with dependent enums, then trained and measured.

python benchmarks/endava_inferred_schema.py --out /tmp/endava [--rows 3000]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from it_service_tickets import metric_figures, run_figures
from record import real_data, triage, write_record

FIELDS = "ticket_type,category,sub_category1,urgency,impact"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--test-rows", type=int, default=500)
    options = parser.parse_args()
    began = time.monotonic()
    source = real_data() / "endava_raw_5k.parquet"
    options.out.mkdir(parents=True, exist_ok=True)
    schema, data, run = options.out / "endava.yaml", options.out / "data", options.out / "runs" / "hybrid-seed1"
    triage(
        *("schema", "infer", source, "--fields", FIELDS, "--parent", "sub_category1=category"),
        *("--name", "endava", "--out", schema),
    )
    triage("schema", "check", schema)
    triage("data", "prepare", "endava", "--source", source, "--schema", schema, "--out", data)
    triage(
        *("train", "hybrid", f"data={data}", f"output={run.parent}", "seed=1", "--name", run.name),
        *(f"max_train_rows={options.rows}", f"epochs={options.epochs}", "prompt.max_length=256"),
    )
    triage("evaluate", run, "--split", "test", "--limit", options.test_rows)
    triage("baseline", data, "--max-train-rows", options.rows)
    triage("compare", run, "--out", options.out / "report.html")
    manifest = json.loads((data / "manifest.json").read_text())
    figures = {
        "counts": manifest["counts"],
        "leak_check": manifest["leak_check"],
        "run": run_figures(run),
        "baselines": {
            folder.name: metric_figures(folder / "metrics.json") for folder in sorted((data / "baselines").iterdir())
        },
        "bar": "TF-IDF + LinearSVC, random split: type 99.0, category 87.0, sub_category1 64.4",
        "seconds": round(time.monotonic() - began),
    }
    print(write_record("endava_inferred_schema", figures))


if __name__ == "__main__":
    main()
