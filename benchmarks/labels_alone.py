"""What a run loses when it is asked for its labels alone, and what helps: a share of rows trained so, or the text last.

    python benchmarks/labels_alone.py [--seeds 0 1] [--steps 312] [--work FOLDER]

Runs of every weight of the embedded base on 4,000 generated tickets, alike but for one thing:

- as it is: every record begins with its summary;
- share 0.3: `labels_alone_share=0.3`, three of ten training rows have no summary;
- text last: the schema's summary comes behind its labels.

Each decodes the test split whole, and with `--fields labels`, in float32. Figures are shares of label fields that are right, over
tickets and seeds, and their differences, paired by ticket, with 95 % intervals (`compare/statistics.py`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from generated_tickets import generated, prepared_as, triage
from record import write_record

from triagekit.compare.statistics import seed_difference, seed_mean
from triagekit.data.dataset import ProcessedDataset
from triagekit.evaluation.evaluate import PREDICTIONS, evaluate_run
from triagekit.evaluation.table import PredictionTable

ROWS = 5000
ARMS = {"as it is": [], "share 0.3": ["labels_alone_share=0.3"], "text last": []}
SETTINGS = {
    "base": "embedded",
    "precision": "fp32",
    "prompt.strategy": "explicit",
    "prompt.max_length": 1024,
    "batch.effective": 16,
    "batch.micro": 16,
    "optimizer.learning_rate": 5e-4,
    "evaluation.max_rows": 8,
    "evaluation.every_share": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=312)
    parser.add_argument("--work", type=Path, help="keep data and runs in this folder for the next call")
    parser.add_argument("--record", default="labels_alone", help="name of the record; `none` writes none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = (options.work or Path(folder)).resolve()
        scores = {arm: [measured(work, arm, seed, options.steps) for seed in options.seeds] for arm in ARMS}
    figures = {
        "rows": ROWS,
        "steps": options.steps,
        "seeds": options.seeds,
        "settings": SETTINGS,
        "arms": judged(scores),
    }
    if options.record != "none":
        print(write_record(options.record, figures))
    for arm, found in figures["arms"].items():
        parts = {name: "{value:.1%} [{low:.1%}, {high:.1%}]".format(**found[name]) for name in ("whole", "alone")}
        lost = "{value:+.1%} [{low:+.1%}, {high:+.1%}]".format(**found["difference"])
        print(f"{arm:10} whole {parts['whole']}   labels alone {parts['alone']}   difference {lost}")


def measured(work: Path, arm: str, seed: int, steps: int) -> dict[str, np.ndarray]:
    """Share of right labels of each test ticket, `whole` and `alone`."""
    data = tickets = generated(work / f"data-{ROWS}", ROWS)
    if arm == "text last":
        document = yaml.safe_load((data / "schema.yaml").read_text(encoding="utf-8"))
        document["fields"].sort(key=lambda field: field["kind"] == "text")
        data = prepared_as(data, "text_last", yaml.safe_dump(document, sort_keys=False))
    name = f"{arm.replace(' ', '_')}-{steps}-seed{seed}"
    run = work / "labels_alone" / name
    if not (run / "summary.json").is_file():
        given = {**SETTINGS, "data": data, "output": run.parent, "seed": seed, "max_steps": steps}
        words = [f"{key}={value}" for key, value in given.items()]
        triage("train", "full", *words, *ARMS[arm], "--rung", "none", "--name", name)
    found = {}
    for kind, fields, place in (("whole", None, "."), ("alone", ["labels"], "labels")):
        metrics = evaluate_run(run, free_sample=0, fields=fields)
        table, _ = PredictionTable.read(run / "eval" / "test" / place / PREDICTIONS)
        if table.ids != [row.id for row in ProcessedDataset.open(tickets).rows("test")]:
            raise SystemExit(f"The test tickets of {data} are not those of {tickets}.")
        labels = [field for field, values in metrics["fields"].items() if values["kind"] != "text"]
        found[kind] = np.mean([table.correct(field) for field in labels], axis=0)
    return found


def judged(scores: dict[str, list[dict[str, np.ndarray]]]) -> dict[str, dict[str, Any]]:
    """Means and their difference, of each arm."""
    figures = {}
    for arm, seeds in scores.items():
        whole, alone = (np.array([each[kind] for each in seeds]) for kind in ("whole", "alone"))
        figures[arm] = {
            "tickets": whole.shape[1],
            "whole": seed_mean(whole).to_json(),
            "alone": seed_mean(alone).to_json(),
            # Of the same models: their seeds are paired too, so one array of differences against nothing.
            "difference": seed_difference(alone - whole, np.zeros_like(whole[:1]), second_deterministic=True).to_json(),
            "whole_beside_as_it_is": seed_difference(
                whole, np.array([each["whole"] for each in scores["as it is"]])
            ).to_json(),
        }
    return figures


if __name__ == "__main__":
    main()
