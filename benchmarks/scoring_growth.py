"""What scoring costs as work grows: more tickets, and fields with more values, should cost nearly nothing more a ticket; two
workers on two cores should do twice what one does on one.

The embedded base, untrained, reads generated tickets behind short prompts, in one process. With `--run`, an archive job scores
with that run, its workers kept to as many cores as there are of them.

    python benchmarks/scoring_growth.py [--rows 1000 10000] [--values 10 1000 10000] [--tickets 500]
    python benchmarks/scoring_growth.py --rows 1000 10000 100000 --run runs/lora-seed1 --archive-rows 20000

Time a ticket is a ratio to the smallest case of the same run. Memory is the peak of a fresh process for each case, and how
high it stood when so many tickets were done.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from record import triage, write_record

SHARD = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--values", type=int, nargs="+", default=[10, 1_000, 10_000])
    parser.add_argument("--tickets", type=int, default=500, help="tickets of the cases with many values")
    parser.add_argument(
        "--run", type=Path, help="a finished run that reads generated tickets; without one, no archive job"
    )
    parser.add_argument("--archive-rows", type=int, default=20_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--child", nargs=2, type=int, metavar=("ROWS", "VALUES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(*options.child)))
        return
    cases = [(rows, 0) for rows in options.rows] + [(options.tickets, values) for values in options.values]
    figures: dict[str, list[dict[str, Any]]] = {"more tickets": [], "more values": []}
    for rows, values in cases:
        found = in_a_process(rows, values)
        group = figures["more values" if values else "more tickets"]
        group.append(found)
        found["seconds_a_ticket_ratio"] = round(found["seconds_a_ticket"] / group[0]["seconds_a_ticket"], 3)
        print(json.dumps(found), flush=True)
    if options.run is not None:
        figures["more workers"] = more_workers(options.run, options.archive_rows, options.workers)
    print(write_record("scoring_growth", figures))


def more_workers(run: Path, rows: int, numbers: list[int]) -> list[dict[str, Any]]:
    """The same archive with so many workers, a core each."""
    cores = sorted(os.sched_getaffinity(0))
    if max(numbers) > len(cores):
        raise SystemExit(f"{max(numbers)} workers need a core each; here are {len(cores)}.")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive.jsonl"
        triage("data", "generate", "--rows", rows, "--seed", 6, "--out", archive)
        for workers in numbers:
            os.sched_setaffinity(0, cores[:workers])
            try:
                scores = Path(folder) / f"scores-{workers}"
                triage("score", archive, "--run", run, "--out", scores, "--device", "cpu", f"workers={workers}")
            finally:
                os.sched_setaffinity(0, cores)
            manifest = json.loads((scores / "manifest.json").read_text(encoding="utf-8"))
            case = {"workers": workers, **{name: manifest[name] for name in ("rows_out", "seconds", "rows_per_second")}}
            found.append(
                {
                    **case,
                    "of_the_first": round(case["rows_per_second"] / found[0]["rows_per_second"], 3) if found else 1.0,
                }
            )
            print(json.dumps(found[-1]), flush=True)
    return found


def in_a_process(rows: int, values: int) -> dict[str, Any]:
    """One case, in a process of its own."""
    words = [sys.executable, __file__, "--child", str(rows), str(values)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{rows} rows, {values} values failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run(rows: int, values: int) -> dict[str, Any]:
    """Score `rows` tickets in shards; `values` 0: the schema it_tickets, else one enum with so many values."""
    from triagekit.data.generator import generate_tickets
    from triagekit.decoding.counts import DecodeCounts
    from triagekit.decoding.decoder import BatchedDecoder
    from triagekit.modeling.base import load_base, load_tokenizer
    from triagekit.modeling.packed_linear import pack_linears
    from triagekit.modeling.quiet import quiet_libraries
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.template import PromptSettings, PromptTemplate
    from triagekit.schema import EnumField, Schema, load_schema
    from triagekit.scoring.process_memory import prepare_for_tickets

    quiet_libraries()
    schema = load_schema("it_tickets")
    if values:
        schema = Schema(name="queues", fields=(EnumField("queue", tuple(f"queue {n:05d}" for n in range(values))),))
    tokenizer = load_tokenizer("embedded")
    settings = PromptSettings(strategy="implicit", max_length=1024)
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, schema, settings))
    model = load_base("embedded", device="cpu").requires_grad_(False)
    pack_linears([model])
    decoder = BatchedDecoder(model, segments, batch_size=128)
    texts = (ticket["text"] for ticket in generate_tickets(rows, seed=5))
    decoder.decode(["warm up"])
    decoder.counts = DecodeCounts()
    prepare_for_tickets()
    done, seconds = 0, 0.0
    peaks: dict[int, int] = {}
    while shard := list(islice(texts, SHARD)):
        began = time.perf_counter()
        done += len(decoder.decode(shard))
        seconds += time.perf_counter() - began
        if done >= 2 * max(peaks, default=0) or done == rows:
            peaks[done] = peak_memory()
    counts = decoder.counts
    return {
        "tickets": done,
        "values": values or None,
        "seconds_a_ticket": seconds / done,
        "passes_a_batch_of_128": round(counts.passes * 128 / done, 1),
        "tokens_a_ticket": round(counts.tokens / done, 1),
        "prompt_padding": round(counts.prompt_padding, 3),
        "idle_slots": round(counts.idle_slots, 3),
        "peak_memory_bytes": peak_memory(),
        "peak_memory_bytes_after_tickets": peaks,
    }


def peak_memory() -> int:
    """Bytes, of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
