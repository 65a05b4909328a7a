"""A task in a work folder: tickets, a trained run, its merged model, its prompts. What stands there already is kept.

Called by the benchmark in a process of its own: `python prepare.py WORK MODEL TICKETS STEPS ROWS DEVICE [RUN …]`, DEVICE `cpu` or
`cuda`. Prints the path of the task last. RUN names further runs, trained alike but for what they write: `compact` the same
records in the compact format, `compact_labels` records without free text in it.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml
from generated_tickets import generated, prepared_as, triage
from matrix_rate import THREADS
from models import base_of
from schema_forms import schema_forms

from triagekit.data.dataset import ProcessedDataset
from triagekit.files.atomic import write_json

LEARNING_RATES = {
    "embedded": 5e-4,
    "grown_45m": 5e-4,
    "qwen2_45m": 1e-3,
    "qwen2.5-0.5b": 3e-4,
    "qwen2.5-1.5b": 2e-4,
    "tiny": 2e-3,
}
# With few trained tokens in a row each moves the weights more: at the rate of whole records this run forgot its base.
OWN_RATES = {("grown_45m", "compact_labels"): 2e-4}
PRECISIONS = {"cpu": "fp32", "cuda": "bf16"}
ROWS_OF_A_STEP = 16
MAX_NEW_TOKENS = 256


def main() -> None:
    work, model = Path(sys.argv[1]).resolve(), sys.argv[2]
    tickets, steps, rows = map(int, sys.argv[3:6])
    device = sys.argv[6]
    data = generated(work / f"data-{rows}", rows)
    runs = {"json": trained(work, model, data, steps, "json", device)}
    for name in sys.argv[7:]:
        own = without_text(data) if name == "compact_labels" else data
        runs[name] = trained(work, model, own, steps, name, device)
    merged = work / f"merged-{runs['json'].name}"
    if not (merged / "export.json").is_file():
        triage("export", "merge", runs["json"], "--out", merged, "--dtype", PRECISIONS[device], "--check-rows", 2)
    print(write_task(work, runs, merged, data, tickets, device))


def without_text(data: Path) -> Path:
    """The same tickets in the same splits, their records without free text."""
    document = yaml.safe_load((data / "schema.yaml").read_text(encoding="utf-8"))
    document["fields"] = [field for field in document["fields"] if field["kind"] != "text"]
    folder = prepared_as(data, "labels", yaml.safe_dump(document, sort_keys=False))
    seen, kept_out = (
        {row.text for split in splits for row in ProcessedDataset.open(place).rows(split)}
        for place, splits in ((folder, ("train",)), (data, ("val", "test")))
    )
    if seen & kept_out:
        raise SystemExit(
            f"{len(seen & kept_out)} tickets of {data} that are to be scored are in the training split of {folder}."
        )
    return folder


def trained(work: Path, model: str, data: Path, steps: int, kind: str, device: str) -> Path:
    """A run with explicit prompts, every weight trained."""
    name = f"{model}-{steps}" if kind == "json" else f"{model}-{steps}-{kind}"
    if (work / "runs" / name / "summary.json").is_file():
        return work / "runs" / name
    bases = work / "bases"
    bases.mkdir(exist_ok=True)
    settings: dict[str, Any] = {
        "base": base_of(model, bases, PRECISIONS[device]),
        "data": data,
        "output": work / "runs",
        "precision": PRECISIONS[device],
        "prompt.strategy": "explicit",
        "prompt.max_length": 1024,
        "prompt.record_format": kind.split("_")[0],
        "batch.effective": ROWS_OF_A_STEP,
        "batch.micro": ROWS_OF_A_STEP,
        "optimizer.learning_rate": OWN_RATES.get((model, kind), LEARNING_RATES[model]),
        "max_steps": steps,
        "evaluation.max_rows": 8,
        "evaluation.every_share": 1,
    }
    triage("train", "full", *(f"{key}={value}" for key, value in settings.items()), "--rung", "none", "--name", name)
    return work / "runs" / name


def write_task(work: Path, runs: dict[str, Path], merged: Path, data: Path, tickets: int, device: str) -> Path:
    """The task of `tickets` tickets that the model was not trained on, as `request.Task`, with its facts beside it."""
    from safetensors import safe_open

    from triagekit.modeling.adapter_folder import read_card
    from triagekit.modeling.base import load_tokenizer
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.template import PromptTemplate

    dataset = ProcessedDataset.open(data)
    rows = [row for split in ("test", "val") for row in dataset.rows(split)][:tickets]
    texts = [row.text for row in rows]
    if len(texts) < tickets:
        raise SystemExit(f"Only {len(texts)} tickets were kept out of training; ask for no more of them: --tickets")
    tokenizer = load_tokenizer(str(merged))
    segments = SegmentTokenizer(tokenizer, PromptTemplate.from_dict(tokenizer, read_card(merged)["prompt"]))
    prefix = list(segments.prefix_ids(0))
    own = [segments.prompt_ids(text)[len(prefix) :] for text in texts]
    with safe_open(merged / "model.safetensors", "pt") as weights:
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    facts = {
        "parameters": parameters,
        "vocabulary": len(tokenizer),
        "tickets": len(texts),
        "prefix_tokens": len(prefix),
        "own_tokens": sum(map(len, own)),
        "records": [dict(row.record) for row in rows],
    }
    task = {
        "runs": {name: str(run) for name, run in runs.items()},
        "model": str(merged),
        "texts": texts,
        "prefix": prefix,
        "own": own,
        "end_id": segments.end_ids[0],
        "pad_id": tokenizer.pad_token_id,
        "max_new_tokens": MAX_NEW_TOKENS,
        "schemas": schema_forms(dataset.schema),
        "threads": THREADS,
        "device": device,
        "precision": PRECISIONS[device],
    }
    path = work / f"task-{runs['json'].name}-{tickets}.json"
    write_json(path, task)
    write_json(path.with_suffix(".facts.json"), {**facts, "schema": dataset.schema.to_dict()})
    return path


if __name__ == "__main__":
    main()
