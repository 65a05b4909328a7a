"""Ways of training compared fairly on real tickets: `triage sweep` as anyone would run it, and a record of what came out.

    python benchmarks/methods_sweep.py it_service --rows 500 --epochs 2 --out /tmp/sweeps [--methods lora hybrid full]
    python benchmarks/methods_sweep.py it_service_formats --rows 5000 --epochs 1 --out /tmp/sweeps      # JSON or values alone
    python benchmarks/methods_sweep.py itsm_imbalance --rows 1000 --epochs 1.5 --config hybrid --rates 2e-3 --out /tmp/sweeps
    python benchmarks/methods_sweep.py --table          # the tables of docs/methods.md, from the records

Learning rates are chosen on the validation split with the first seed. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from endava_inferred_schema import FIELDS
from record import RESULTS, real_data, triage, write_record

from triagekit.files.resources import find_config

# (data config, source file (None: generated tickets), sweep, label field that is weighted and sampled, prompt.max_length)
SETS: dict[str, tuple[str, str | None, str, str | None, int]] = {
    "it_service": ("it_service_tickets_38k", "it_service_tickets_38k.parquet", "sweep_methods", None, 128),
    "endava": ("endava", "endava_raw_5k.parquet", "sweep_methods", None, 128),
    "it_service_formats": ("it_service_tickets_38k", "it_service_tickets_38k.parquet", "record_formats", None, 128),
    "it_tickets_formats": ("it_tickets", None, "record_formats", None, 1024),
    "itsm_imbalance": ("itsm_assignment", "itsm_assignment_8500.parquet", "imbalance", "assignment_group", 256),
}
GENERATED = 8000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", choices=SETS)
    parser.add_argument("--rows", type=int, default=500, help="training rows (default: 500)")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--methods", nargs="+", help="only these methods of the sweep")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--rates-from", type=Path, help="learning_rates.json of another sweep, instead of choosing anew"
    )
    parser.add_argument("--config", help="train config that members start from, instead of the sweep's")
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates that are tried, instead of the sweep's")
    parser.add_argument(
        "--more-rates", nargs="+", default=[], metavar="METHOD=RATE", help="tried too, where the best was at an edge"
    )
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for data and runs")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(tables())
    elif options.set is None or options.out is None:
        parser.error("name a set and --out, or --table")
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    config, source, sweep, field, length = SETS[options.set]
    data = options.out / "data" / options.set
    if not (data / "manifest.json").is_file():
        prepare(config, generated(data.with_suffix(".jsonl")) if source is None else real_data() / source, data)
    name = f"{options.set}_{options.rows}"
    path = options.out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings(options, sweep, field, name, data, length), sort_keys=False))
    triage("sweep", path, "--jobs", options.jobs, "--limit", options.test_rows)
    print(write_record(f"methods_{name}", figures(options.out / "sweeps" / name, options)))


def generated(path: Path) -> Path:
    """As many tickets as the smaller real sets hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    triage("data", "generate", "--rows", GENERATED, "--seed", 7, "--out", path)
    return path


def prepare(config: str, source: Path, data: Path) -> None:
    """The data set; the schema of `endava`, whose labels are integer codes, is drafted from the data."""
    words: list[str | Path] = ["data", "prepare", config, "--source", source, "--out", data]
    if config == "endava":
        schema = data.parent / "endava.yaml"
        schema.parent.mkdir(parents=True, exist_ok=True)
        triage(
            *("schema", "infer", source, "--fields", FIELDS, "--parent", "sub_category1=category"),
            *("--name", "endava", "--out", schema),
        )
        words += ["--schema", schema]
    triage(*words)


def settings(
    options: argparse.Namespace, sweep: str, field: str | None, name: str, data: Path, length: int
) -> dict[str, Any]:
    """The shipped sweep with the rows, methods and fields of this benchmark."""
    text = find_config("sweep", sweep).read_text(encoding="utf-8")
    chosen: dict[str, Any] = yaml.safe_load(text.replace("category", field) if field else text)
    if options.methods:
        chosen["methods"] = [method for method in chosen["methods"] if method["name"] in options.methods]
    if options.config:
        chosen["config"] = options.config
    if options.rates:
        chosen["learning_rates"] = options.rates
    for method in chosen["methods"]:
        more = [float(word.split("=")[1]) for word in options.more_rates if word.split("=")[0] == method["name"]]
        if more:
            method["learning_rates"] = sorted([*method.get("learning_rates", chosen["learning_rates"]), *more])
    if options.rates_from:
        rates = {row["method"]: row["chosen"] for row in json.loads(options.rates_from.read_text())}
        for method in chosen["methods"]:
            method["learning_rates"] = [rates[method["name"]]]
    words = [
        *(
            f"data={data}",
            f"max_train_rows={options.rows}",
            f"epochs={options.epochs:g}",
            f"prompt.max_length={length}",
        ),
        *("evaluation.max_rows=400", "evaluation.every_share=0.5"),
    ]
    seeds = chosen["seeds"][: options.seeds]
    return {**chosen, "name": name, "output": str(options.out / "sweeps"), "overrides": words, "seeds": seeds}


def figures(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the report shows, with the macro-F1 of every run, and without the machine's folders."""
    compared = json.loads((folder / "comparison.json").read_text())
    tried = folder / "learning_rates.json"
    rates = {row["method"]: row for row in json.loads(tried.read_text())} if tried.is_file() else {}
    methods = {}
    for own in compared["methods"]:
        measured = [
            json.loads((Path(run) / "eval" / "test" / "metrics.json").read_text())["fields"] for run in own["runs"]
        ]
        first = json.loads((Path(own["runs"][0]) / "summary.json").read_text())
        kept = ("seeds", "trainable", "share", "steps", "seconds", "peak_memory_bytes", "val_loss_best", "scores")
        methods[own["name"]] = {
            **{key: own[key] for key in kept},
            "learning_rate": rate_of(Path(own["runs"][0])),
            "val_loss_by_learning_rate": rates.get(own["name"], {}).get("val_losses"),
            "macro_f1": {
                name: [fields[name]["macro_f1"]["value"] for fields in measured]
                for name in measured[0]
                if "macro_f1" in measured[0][name]
            },
            "train_rows": first["train_rows"],
        }
    baselines = {}
    for own in compared["baselines"]:
        metrics = json.loads((folder / "baselines" / own["name"] / "metrics.json").read_text())["fields"]
        f1 = {name: value["macro_f1"]["value"] for name, value in metrics.items() if "macro_f1" in value}
        baselines[own["name"]] = {"scores": own["scores"], "macro_f1": f1}
    return {
        "set": options.set,
        "train_rows": options.rows,
        "epochs": options.epochs,
        "config": options.config,
        "rates_from": options.rates_from.parent.name if options.rates_from else None,
        "tickets": compared["tickets"],
        "comparable": compared["conditions"]["comparable"],
        "methods": methods,
        "baselines": baselines,
        "statements": compared["statements"],
    }


def rate_of(run: Path) -> float:
    rate: float = yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["learning_rate"]
    return rate


def tables() -> str:
    """One table a record, in Markdown."""
    parts = []
    for path in sorted(
        RESULTS.glob("methods_*.json"), key=lambda path: (path.stem.split("_")[1], len(path.stem), path.stem)
    ):
        found = json.loads(path.read_text())["figures"]
        lines = [
            f"**{found['set']}, {found['train_rows']:,} rows** ({path.name})",
            "",
            "| method | learning rate | trained weights | all fields right, % | over seeds ± | macro-F1, % |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for name, own in found["methods"].items():
            lines.append(
                f"| {name} | {own['learning_rate']:g} | {own['trainable']:,.0f} | {share(own['scores'])} "
                f"| {100 * (own['scores']['all label fields']['spread'] or 0):.1f} | {mean_f1(own['macro_f1'])} |"
            )
        for name, own in found["baselines"].items():
            f1 = {field: [value] for field, value in own["macro_f1"].items()}
            lines.append(f"| *{name}* | | | {share(own['scores'])} | | {mean_f1(f1)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def share(scores: dict[str, Any]) -> str:
    exact = scores["all label fields"]
    return f"{100 * exact['value']:.1f} [{100 * exact['low']:.1f}, {100 * exact['high']:.1f}]"


def mean_f1(fields: dict[str, list[float]]) -> str:
    means = [sum(values) / len(values) for values in fields.values()]
    return f"{100 * sum(means) / len(means):.1f}" if means else ""


if __name__ == "__main__":
    main()
