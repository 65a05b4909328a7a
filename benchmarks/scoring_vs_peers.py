"""Speed of batch scoring: this project's scorer against the engines that people would take instead.

All get the same prompts (token ids), the same fp32 weights (a trained run; the others its merged model), the same schema,
and decode greedily on two threads, each in a process of its own, in turn, and in the other order in the next round; the
fastest round of each counts, all are recorded. The batch size of each engine, and the form in which it is told the schema,
is the best of a small sweep before the first round.

    python benchmarks/scoring_vs_peers.py --quick       # a minute, against transformers + xgrammar; the last line is the ratio
    python benchmarks/scoring_vs_peers.py               # all engines, both models
    python benchmarks/scoring_vs_peers.py --engines openvino --models embedded --tickets 64 --work .peers/work
    python benchmarks/scoring_vs_peers.py --gpu         # the shapes of Qwen2.5 0.5B and 1.5B in bf16, on a GPU

An engine's time is that of generating alone, after it was loaded and has answered 64 tickets, so that caches are filled and
kernels made. Ours includes tokenising the tickets and rendering the records; the others' does not.

- ours: `Predictor.predict` on the run's adapter folder. ours_int8: the same with weights and activations in 8 bits.
- ours_compact, ours_compact_int8: a run trained alike in the compact format; the same JSON from fewer tokens. ours_labels,
  ours_labels_int8: the first run's labels without the free text. ours_compact_labels_int8: a run that was never taught any, in
  the compact format. Less work for the same labels, so these stand apart.
- openvino, openvino_int8: OpenVINO GenAI with continuous batching, prefix cache and structured output. int8 (weights, and
  activations quantised on the way, its own default) is less exact work, so it stands apart.
- vllm: vLLM's CPU build, with prefix cache and structured output.
- transformers_xgrammar_prefix, transformers_xgrammar: `generate` under xgrammar's mask, with the prefix's keys and values
  computed once or for every ticket. transformers_generate: without a constraint; transformers_continuous: the same with
  transformers' own continuous batching.

The schema's forms are those of peers/schema_forms.py. "Of the ceiling" is the share of this machine's matrix-product rate,
measured in the same run: 2 × parameters × (the ticket's own prompt tokens + the tokens of our record), whatever an engine
really computes, over its time and the rate of one large fp32 product on as many threads (by the faster of torch's two
libraries), or of a bf16 product on the GPU; and of an int8 product beside it. Labels alone and the compact format do less work
than that, and ours computes the output head for the schema's tokens alone: shares above 1 say so. Engines whose environment is
missing are named with the command that makes it.

All models are trained whole: the embedded base over its rows once, at the learning rate at which JSON and the compact format
do best (`methods_it_tickets_formats_5000.json`), the one that is grown from it as long, random ones just long enough that the
engines agree on the text, a quick run as short as that too. Where engines still differ there, records may have other
lengths, so the quick ratio is that of the time which a written token takes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from matrix_rate import THREADS
from models import MODELS, ON_GPU
from peers.engines import (
    ENGINES,
    PEERS,
    EngineFailed,
    best_settings,
    ceiling,
    further_runs,
    process_environment,
    run_engine,
)
from peers.judge import judge, show
from record import write_record

from triagekit.hardware.devices import detect_devices
from triagekit.schema.schema import Schema

MODELS_ON_CPU = ("embedded", "grown_45m")
TICKETS = {"embedded": 960, "grown_45m": 960, "qwen2_45m": 128, "qwen2.5-0.5b": 960, "qwen2.5-1.5b": 960, "tiny": 24}
STEPS = {"embedded": 312, "grown_45m": 312, "qwen2_45m": 100, "qwen2.5-0.5b": 100, "qwen2.5-1.5b": 100, "tiny": 4}
GPU_ENGINES = (
    "ours",
    "ours_int8",
    "ours_compact",
    "ours_labels",
    "transformers_xgrammar_prefix",
    "transformers_generate",
    "transformers_continuous",
)
ROWS = 5000
# Enough steps that engines write the same text, and tickets that the batches' ends, where rows run out, are not most of the time.
QUICK_TICKETS, QUICK_STEPS, QUICK_ROWS = 320, 40, 2000
QUICK_PEER = "transformers_xgrammar_prefix"
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""How idle threads wait: left as the caller has it, for all engines alike, and recorded."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="embedded base, few tickets, one peer, no record")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, metavar="NAME")
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--gpu", action="store_true", help="everything on the GPU, in bf16")
    parser.add_argument("--tickets", type=int, metavar="N", help=f"of each model (default: {TICKETS})")
    parser.add_argument("--rounds", type=int, default=3, help="at least two, so that the order turns (default: 3)")
    parser.add_argument(
        "--work", type=Path, help="keep runs, exported models and sweeps in this folder for the next call"
    )
    parser.add_argument("--sweep", action="store_true", help="sweep again where the work folder has an earlier sweep")
    parser.add_argument("--record", help="name of the record; `none` writes none")
    options = parser.parse_args()
    options.models = options.models or list(ON_GPU if options.gpu else MODELS_ON_CPU)
    options.engines = options.engines or list(GPU_ENGINES if options.gpu else ENGINES)
    if options.gpu and not detect_devices():
        raise SystemExit("--gpu: this machine has no GPU that CUDA can use, so nothing was measured.")
    if options.quick:
        options.engines, options.models, options.rounds = [QUICK_PEER], ["embedded"], 1
        if ENGINES[QUICK_PEER].missing:
            print("The environment with xgrammar is missing; it is made first.", flush=True)
            given = {**os.environ, "PYTHON": sys.executable}
            subprocess.run([PEERS / "install.sh", "xgrammar"], check=True, env=given)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for model in options.models:
            figures[model] = compare(model, work, options)
    if not options.quick and options.record != "none":
        waiting = {name: os.environ.get(name) for name in WAITING}
        whole = {"threads": THREADS, "rounds": options.rounds, "waiting": waiting, "models": figures}
        record = options.record or ("scoring_vs_peers_gpu" if options.gpu else "scoring_vs_peers")
        print(write_record(record, {**whole, "versions": versions(options.engines)}))
    found = next(iter(figures.values()))["engines"]
    print(f"ratio {min(each['ratio'] for name, each in found.items() if not name.startswith('ours')):.2f}")


def compare(model: str, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of all engines on one model."""
    task = prepare(model, work, options)
    facts = json.loads(task.with_suffix(".facts.json").read_text(encoding="utf-8"))
    schema = Schema.from_dict(facts.pop("schema"))
    print(f"\n{model}: {facts['parameters'] / 1e6:.1f} M weights, {facts['tickets']} tickets", flush=True)
    sweeps: dict[str, list[dict[str, Any]]] = {}
    not_measured: dict[str, str] = {}
    for name in dict.fromkeys(["ours", *options.engines]):
        if ENGINES[name].missing:
            not_measured[name] = f"its environment is missing: {ENGINES[name].missing}"
            continue
        try:
            first = [{"settings": ENGINES[name].sweep[0]}]
            sweeps[name] = first if options.quick else best_settings(name, task, options.sweep)
        except EngineFailed as failure:
            not_measured[name] = f"it failed: {failure}"
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sweeps}
    # Loading torch once more would take a quick run over its minute.
    device = "cuda" if options.gpu else "cpu"
    ceilings = [] if options.quick else [ceiling(device)]
    for number in range(options.rounds):
        for name in list(sweeps) if number % 2 == 0 else reversed(sweeps):
            try:
                rounds[name].append(run_engine(name, task, sweeps[name][0]["settings"]))
            except EngineFailed as failure:
                not_measured[name] = f"it failed in round {number + 1}: {failure}"
        if not options.quick:
            ceilings.append(ceiling(device))
    rounds = {name: each for name, each in rounds.items() if each}
    if "ours" not in rounds or len(rounds) == 1:
        raise SystemExit("\n\n".join(f"{name}: {reason}" for name, reason in not_measured.items()))
    rates = {kind: max(each[kind] for each in ceilings) for kind in ceilings[0]} if ceilings else {}
    found = judge(rounds, sweeps, schema, facts, rates, per_token=options.quick)
    show(found, not_measured)
    del facts["records"]
    return {**facts, "matrix_rates": rates, "engines": found, "not_measured": not_measured}


def prepare(model: str, work: Path, options: argparse.Namespace) -> Path:
    """The task file, made by a process that may load torch."""
    tickets = options.tickets or (QUICK_TICKETS if options.quick else TICKETS[model])
    steps, rows = (QUICK_STEPS, QUICK_ROWS) if options.quick else (STEPS[model], ROWS)
    words = [sys.executable, PEERS / "prepare.py", work, model, tickets, steps, rows, "cuda" if options.gpu else "cpu"]
    words += further_runs(options.engines)
    print(f"{model}: a run, its merged model and its prompts …", flush=True)
    done = subprocess.run(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        text=True,
        env=process_environment(ENGINES["ours"]),
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{model} could not be prepared")
    return Path(done.stdout.strip().splitlines()[-1])


def versions(engines: list[str]) -> dict[str, list[str]]:
    """Pinned packages of the environments in use."""
    return {str(ENGINES[name].environment): ENGINES[name].versions for name in engines if ENGINES[name].environment}


if __name__ == "__main__":
    main()
