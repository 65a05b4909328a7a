"""Ways of training compared fairly on real tickets: `triage sweep` as anyone would run it, and a record of what came out.

    python benchmarks/methods_sweep.py it_service --rows 500 --epochs 2 --out /tmp/sweeps [--methods lora hybrid full]
    python benchmarks/methods_sweep.py it_service_formats --rows 5000 --epochs 1 --out /tmp/sweeps      # JSON or values alone
    python benchmarks/methods_sweep.py itsm_imbalance --rows 3000 --epochs 1 --config full --rates 5e-4 1e-3 2e-3 --out /tmp/a
    python benchmarks/methods_sweep.py --table          # the tables of docs/methods.md, from the records

Learning rates are chosen on the validation split with the first seed. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from endava_inferred_schema import FIELDS
from macro_f1 import macro_f1_figures
from record import RESULTS, real_data, triage, write_record

from triagekit.compare.methods import Method, baseline_method
from triagekit.compare.paired import signed
from triagekit.compare.runs import common_tickets, load_baselines, load_runs
from triagekit.files.resources import find_config


class TicketSet(NamedTuple):
    """Tickets and the sweep that is run on them. `source` None: generated tickets. `weighted`: the label field that is
    weighted and sampled. `drafted`: words for `triage schema infer`, where the data config's own schema is not the task."""

    config: str
    source: str | None
    sweep: str
    length: int
    weighted: str | None = None
    drafted: tuple[str, ...] = ()
    mapping: tuple[str, ...] = ()


SETS = {
    "it_service": TicketSet("it_service_tickets_38k", "it_service_tickets_38k.parquet", "sweep_methods", 128),
    # Labels are integer codes, so that no shipped schema names them.
    "endava": TicketSet(
        *("endava", "endava_raw_5k.parquet", "sweep_methods", 128),
        drafted=("--fields", FIELDS, "--parent", "sub_category1=category", "--name", "endava"),
    ),
    "it_service_formats": TicketSet("it_service_tickets_38k", "it_service_tickets_38k.parquet", "record_formats", 128),
    "it_tickets_formats": TicketSet("it_tickets", None, "record_formats", 1024),
    # The group alone: beside a summary, nearly all of the validation loss that rates are chosen by would be the summary's.
    "itsm_imbalance": TicketSet(
        *("itsm_assignment", "itsm_assignment_8500.parquet", "imbalance", 96),
        weighted="assignment_group",
        drafted=("--fields", "assignment_group", "--name", "itsm_groups"),
        mapping=("mapping.labels={assignment_group: assignment_group}",),
    ),
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
    chosen = SETS[options.set]
    data = options.out / "data" / options.set
    if not (data / "manifest.json").is_file():
        prepare(chosen, data)
    name = f"{options.set}_{options.rows}"
    path = options.out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings(options, chosen, name, data), sort_keys=False))
    triage("sweep", path, "--jobs", options.jobs, "--limit", options.test_rows)
    print(write_record(f"methods_{name}", figures(options.out / "sweeps" / name, options)))


def generated(path: Path) -> Path:
    """As many tickets as the smaller real sets hold."""
    triage("data", "generate", "--rows", GENERATED, "--seed", 7, "--out", path)
    return path


def prepare(chosen: TicketSet, data: Path) -> None:
    """The data set, with a schema drafted from the data where the set asks for one."""
    data.parent.mkdir(parents=True, exist_ok=True)
    source = generated(data.with_suffix(".jsonl")) if chosen.source is None else real_data() / chosen.source
    words: list[str | Path] = ["data", "prepare", chosen.config, "--source", source, "--out", data, *chosen.mapping]
    if chosen.drafted:
        schema = data.with_suffix(".yaml")
        triage("schema", "infer", source, *chosen.drafted, "--out", schema)
        words += ["--schema", schema]
    triage(*words)


def settings(options: argparse.Namespace, source: TicketSet, name: str, data: Path) -> dict[str, Any]:
    """The shipped sweep with the rows, methods and fields of this benchmark."""
    text = find_config("sweep", source.sweep).read_text(encoding="utf-8")
    chosen: dict[str, Any] = yaml.safe_load(text.replace("category", source.weighted) if source.weighted else text)
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
            f"prompt.max_length={source.length}",
        ),
        *("evaluation.max_rows=400", "evaluation.every_share=0.5"),
    ]
    seeds = chosen["seeds"][: options.seeds]
    return {**chosen, "name": name, "output": str(options.out / "sweeps"), "overrides": words, "seeds": seeds}


def figures(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What the report shows, with macro-F1 (of every run, and beside the first method's), without the machine's folders."""
    compared = json.loads((folder / "comparison.json").read_text())
    tried = folder / "learning_rates.json"
    rates = {row["method"]: row for row in json.loads(tried.read_text())} if tried.is_file() else {}
    f1 = macro_f1_figures(compared_methods(folder, compared), compared["methods"][0]["name"])
    methods = {}
    for own in compared["methods"]:
        measured = [
            json.loads((Path(run) / "eval" / "test" / "metrics.json").read_text())["fields"] for run in own["runs"]
        ]
        first = json.loads((Path(own["runs"][0]) / "summary.json").read_text())
        kept = ("seeds", "trainable", "share", "steps", "seconds", "peak_memory_bytes", "val_loss_best", "scores")
        methods[own["name"]] = {
            **{key: own[key] for key in kept},
            **f1[own["name"]],
            "learning_rate": rate_of(Path(own["runs"][0])),
            "val_loss_by_learning_rate": rates.get(own["name"], {}).get("val_losses"),
            "macro_f1": {
                name: [fields[name]["macro_f1"]["value"] for fields in measured]
                for name in measured[0]
                if "macro_f1" in measured[0][name]
            },
            "train_rows": first["train_rows"],
            "tickets_cut": first["tickets_cut"],
        }
    baselines = {}
    for own in compared["baselines"]:
        metrics = json.loads((folder / "baselines" / own["name"] / "metrics.json").read_text())["fields"]
        by_field = {name: value["macro_f1"]["value"] for name, value in metrics.items() if "macro_f1" in value}
        baselines[own["name"]] = {"scores": own["scores"], "macro_f1": by_field, **f1[own["name"]]}
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


def compared_methods(folder: Path, compared: dict[str, Any]) -> list[Method]:
    """The sweep's methods and baselines with their predictions, on the tickets that all share."""
    methods = []
    for own in compared["methods"]:
        runs = load_runs([Path(run) for run in own["runs"]], "test")
        methods.append(Method(own["name"], runs[0].schema, tuple(runs), tuple(run.table for run in runs)))
    first = methods[0].runs[0]
    baselines, _ = load_baselines(folder / "baselines", "test", first.summary["data_fingerprint"])
    methods += [baseline_method(baseline, first.schema) for baseline in baselines]
    ids = common_tickets(table for method in methods for table in method.tables)
    return [method.on(ids) for method in methods]


def rate_of(run: Path) -> float:
    rate: float = yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["learning_rate"]
    return rate


def tables() -> str:
    """One table a record, in Markdown."""
    paths = sorted(
        RESULTS.glob("methods_*.json"), key=lambda path: (path.stem.split("_")[1], len(path.stem), path.stem)
    )
    return "\n\n".join(table(path.name, json.loads(path.read_text())["figures"]) for path in paths)


def table(name: str, found: dict[str, Any]) -> str:
    """The table of one record; the last column only where the record has differences of macro-F1."""
    reference = next((own["macro_f1_difference"]["from"] for own in differing(found)), None)
    heads = ["method", "learning rate", "trained weights", "all fields right, %", "over seeds ±", "macro-F1, %"]
    heads += [f"macro-F1 less {reference}'s, points"] if reference else []
    rows = [
        [
            *(
                method,
                f"{own['learning_rate']:g}",
                f"{own['trainable']:,.0f}",
                share(own["scores"]["all label fields"]),
            ),
            *(f"{100 * (own['scores']['all label fields']['spread'] or 0):.1f}", macro_f1(own)),
            points(own.get("macro_f1_difference")),
        ]
        for method, own in found["methods"].items()
    ]
    rows += [
        [f"*{method}*", "", "", share(own["scores"]["all label fields"]), "", macro_f1(own), ""]
        for method, own in found["baselines"].items()
    ]
    lines = [f"**{found['set']}, {found['train_rows']:,} rows** ({name})", ""]
    for cells in [heads, ["---"] * len(heads), *(row[: len(heads)] for row in rows)]:
        lines.append(" ".join(["|", *(f"{cell} |" if cell else "|" for cell in cells)]))
    return "\n".join(lines)


def differing(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [own for own in found["methods"].values() if own.get("macro_f1_difference")]


def share(figure: dict[str, Any]) -> str:
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def points(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return ""
    value, low, high = (signed(100 * difference[key]) for key in ("value", "low", "high"))
    p = difference["adjusted_p"]
    return f"{value} [{low}, {high}], {f'p {p:.2f}' if p >= 0.005 else 'p < 0.01'}"


def macro_f1(own: dict[str, Any]) -> str:
    """With its interval; of a record that has none, the mean over fields and seeds."""
    if "macro_f1_mean" in own:
        return share(own["macro_f1_mean"])
    means = [float(np.mean(values)) for values in own["macro_f1"].values()]
    return f"{100 * np.mean(means):.1f}" if means else ""


if __name__ == "__main__":
    main()
