"""The model card (README.md) of an export, made from what the run's files say and from nothing else.

It never holds a ticket, a path or a licence: the first two stay at home, the third is the owner's to give.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from triagekit.errors import TriageError
from triagekit.evaluation.evaluate import METRICS, read_metrics
from triagekit.evaluation.wording import number_text, share_text
from triagekit.export.public import is_hub_id, public_base
from triagekit.export.source import ExportSource
from triagekit.modeling.adapter_folder import SCHEMA
from triagekit.schema.fields import DependentEnumField, Field, TagsField, TextField, is_nullable
from triagekit.schema.load import load_schema

_SPLITS = ("test", "val", "train")


def adapter_card(source: ExportSource) -> str:
    """Card of an adapter in PEFT's format."""
    return _card(source, "peft", _adapter_usage(source), [])


def packed_card(source: ExportSource) -> str:
    """Card inside the tarball."""
    command = f'triage predict {source.name} "VPN login fails since this morning"{_other_base(source)}'
    usage = f"    tar -xzf FILE.tar.gz\n    {command}\n"
    return _card(source, "peft", usage, [])


def merged_card(source: ExportSource, record: Mapping[str, Any]) -> str:
    """Card of a merged model; `record` is its export.json."""
    usage = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
```

The prompt that it was trained with stands in `triagekit.json` under `prompt`. With that prompt, records that are valid by
construction, and a confidence for each field:

    triage predict FOLDER "VPN login fails since this morning"
"""
    return _card(source, "transformers", usage, _merge_section(record))


def _card(source: ExportSource, library: str, usage: str, more: list[str]) -> str:
    parts = [
        _front_matter(source, library),
        f"# {source.name}",
        _what_it_does(source, library),
        "## How to use it",
        usage.rstrip(),
        "## The record",
        _schema_section(source),
        "## How well it does",
        _metrics_section(source, library),
        *more,
        "## What it must not be trusted with",
        _limits(source),
        "## How it was made",
        _training_section(source),
        "## Licence",
        "Not stated here. The licence of the base and the rights in the tickets decide; whoever publishes this adds it.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(source: ExportSource, library: str) -> str:
    base = str(source.card["base"])
    fields: dict[str, Any] = {"library_name": library, "pipeline_tag": "text-generation"}
    if is_hub_id(base):
        fields["base_model"] = base
        fields["base_model_relation"] = "adapter" if library == "peft" else "finetune"
    fields["tags"] = [
        "support-tickets",
        "structured-output",
        "json",
        "triagekit",
        str(source.card["adapter"]["method"]),
    ]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _what_it_does(source: ExportSource, library: str) -> str:
    form = "An adapter for" if library == "peft" else "A fine-tuned copy of"
    schema = load_schema(source.run.adapter / SCHEMA)
    about = f" {schema.description.strip()}" if schema.description.strip() else ""
    return (
        f"{form} `{public_base(str(source.card['base']))}` that turns a support ticket into a JSON record of the schema "
        f"`{schema.name}`{f' ({schema.title})' if schema.title else ''}.{about}"
    )


def _adapter_usage(source: ExportSource) -> str:
    card = source.card
    base = str(card["base"])
    if card["base"] == "embedded":
        opening, place = "from triagekit.modeling.base import resolve_base\n", 'resolve_base("embedded")'
    else:
        opening, place = "", json.dumps(public_base(base))
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM
{opening}
base = AutoModelForCausalLM.from_pretrained({place}, dtype="float32")
model = PeftModel.from_pretrained(base, folder)
```

The prompt that it was trained with stands in `triagekit.json` under `prompt`. With that prompt, records that are valid by
construction, and a confidence for each field:

    triage predict FOLDER "VPN login fails since this morning"{_other_base(source)}
"""


def _other_base(source: ExportSource) -> str:
    base = str(source.card["base"])
    return "" if base == "embedded" or is_hub_id(base) else " --base FOLDER_OF_THE_BASE"


def _schema_section(source: ExportSource) -> str:
    schema = load_schema(source.run.adapter / SCHEMA)
    rows = [[f"`{a_field.name}`", *_field_words(a_field)] for a_field in schema.fields]
    note = f"Schema fingerprint `{schema.fingerprint}`; `schema.yaml` has all values."
    if schema.format == "compact":
        note += " The model writes the values alone, one a line; triagekit makes the JSON record from them."
    return f"{_table(['field', 'kind', 'values'], rows)}\n\n{note}"


def _field_words(a_field: Field) -> list[str]:
    null = ", may be null" if is_nullable(a_field) else ""
    if isinstance(a_field, TextField):
        return [f"free text{null}", f"at most {a_field.max_length} characters"]
    if isinstance(a_field, TagsField):
        return [f"up to {a_field.max_items} tags", f"{len(a_field.values)}"]
    if isinstance(a_field, DependentEnumField):
        return [f"one value, which ones depends on `{a_field.parent}`{null}", f"{len(a_field.values)}"]
    return [f"one value{', ordered' if a_field.ordered else ''}{null}", f"{len(a_field.values)}"]


def _metrics_section(source: ExportSource, library: str) -> str:
    found = [(split, metrics) for split in _SPLITS if (metrics := _metrics(source, split)) is not None]
    if not found:
        return "Not evaluated. (`triage evaluate RUN` measures it on tickets that training has not seen.)"
    opening = ["Measured on the adapter, before it was merged."] if library == "transformers" else []
    return "\n\n".join([*opening, *(_split_metrics(split, metrics) for split, metrics in found)])


def _metrics(source: ExportSource, split: str) -> dict[str, Any] | None:
    folder = source.run.evaluation(split)
    return checked_metrics(source, folder) if (folder / METRICS).is_file() else None


def checked_metrics(source: ExportSource, folder: Path) -> dict[str, Any]:
    """The metrics in an evaluation folder of the run. Raises TriageError where they are of another adapter, or damaged."""
    metrics = read_metrics(folder)
    if metrics.get("adapter_fingerprint") != source.card["fingerprint"]:
        mode = metrics.get("mode")
        how = f", with the --precision and --fields that '{mode}' stands for" if mode else ""
        raise TriageError(
            f"{folder / METRICS} was measured on another adapter than this run's. Measure it again (triage evaluate "
            f"{source.run.folder} --split {metrics.get('split')}{how}), or remove that folder."
        )
    return metrics


def _split_metrics(split: str, metrics: Mapping[str, Any]) -> str:
    whole = metrics.get("rows_in_split", metrics["rows"])
    part = (
        f"{metrics['rows']:,} tickets"
        if whole == metrics["rows"]
        else f"the first {metrics['rows']:,} of {whole:,} tickets"
    )
    seen = "; training has seen these" if split == "train" else ""
    rows = [["all label fields right", share_text(metrics["exact_match"]), ""]]
    for name, values in metrics["fields"].items():
        rows.append([f"`{name}`", share_text(values["accuracy"]), _also(values)])
    error = metrics["record_calibration"]["ece"]
    calibration = "" if error is None else f" Calibration error of the record's confidence: {error:.3f}."
    return (
        f"On the {split} split, {part}{seen}, with 95 % intervals over tickets, decoded under the schema's grammar:\n\n"
        f"{_table(['', 'right', 'also'], rows)}\n\nValid records: {share_text(metrics['valid'])}.{calibration}"
    )


def _also(values: Mapping[str, Any]) -> str:
    found = []
    if values.get("macro_f1"):
        found.append(f"macro-F1 {share_text(values['macro_f1'])}")
    if "similarity" in values:
        found.append(f"ROUGE-L {number_text(values['similarity'])}")
    if "within_one" in values:
        found.append(f"within one level {share_text(values['within_one'])}")
    if "set_f1" in values:
        found.append(f"set F1 {number_text(values['set_f1'])}")
    return "; ".join(found)


def _merge_section(record: Mapping[str, Any]) -> list[str]:
    check = record["check"]
    opening = (
        f"The adapter was folded into the un-quantised base in float32 and saved as {record['dtype']}. Largest difference of "
        f"a logit from the adapter on its base: {check['difference']['max_logit']:.2g} (largest logit "
        f"{check['difference']['largest_logit']:.3g})."
    )
    if not check["rows"]:
        return ["## What merging changed", f"{opening} It was not compared on tickets."]
    columns = {"adapter on the plain base": check["adapter_on_base"], "merged": check["merged"]}
    if check["as_trained"]:
        columns = {
            f"as trained ({check['as_trained']['quantization']['bits']}-bit base)": check["as_trained"]
        } | columns
    rows = [["loss, nats a token", *(f"{each['loss']:.4f}" for each in columns.values())]]
    rows.append(["all label fields right", *(f"{each['all_label_fields']:.1%}" for each in columns.values())])
    for name in check["merged"]["fields"]:
        rows.append([f"`{name}`", *(f"{each['fields'][name]:.1%}" for each in columns.values())])
    table = _table([f"{check['rows']} tickets of the {check['split']} split", *columns], rows)
    return ["## What merging changed", f"{opening}\n\n{table}"]


def _limits(source: ExportSource) -> str:
    lines = [
        "It sorts tickets like those it was trained on. For another organisation, another language or another set of "
        "values it has to be trained and measured again.",
        "A record is always valid, which does not make it right: an absent or misleading ticket gets a valid record too. "
        "Send records of low confidence to a person.",
        "Free text fields are written by a small language model and may say what the ticket does not.",
        "No decision about a person (performance, access, employment) should rest on it, and nothing safety-critical.",
        "A ticket may be written to influence its own priority or routing.",
    ]
    if not any(_metrics(source, split) for split in ("test", "val")):
        lines.insert(0, "It was not evaluated on tickets that it has not seen. Do not use it before that is done.")
    return "\n".join(f"- {line}" for line in lines)


def _training_section(source: ExportSource) -> str:
    settings, plan, summary, card = source.run.settings(), source.plan, source.summary, source.card
    adapter, optimizer = card["adapter"], settings.get("optimizer", {})
    variants = [name for name in ("rslora", "dora", "pissa") if adapter.get(name)]
    shape = "" if adapter["method"] == "full" else f", r {adapter['r']}, alpha {adapter['alpha']}"
    rows: list[list[str]] = [
        ["base", f"`{public_base(str(card['base']))}`, fingerprint `{card['base_fingerprint']}`"],
        ["method", f"{adapter['method']}{shape}{''.join(f', {name}' for name in variants)}"],
        ["trained weights", f"{card['trainable']:,} of {card['total']:,}"],
        ["precision", f"{card['precision']}{_quantisation(card)}"],
        [
            "prompt",
            f"{card['prompt']['settings']['strategy']}, at most {card['prompt']['settings']['max_length']} tokens",
        ],
        ["data fingerprint", f"`{card['data_fingerprint']}`"],
    ]
    counts = [f"{plan[split]['rows']:,} {split}" for split in ("train", "val") if split in plan]
    if counts:
        rows.append(["rows", ", ".join(counts)])
    if summary.get("steps"):
        rows.append(["steps", f"{summary['steps']:,} of {summary['effective_batch']} rows, {summary['epochs']} epochs"])
    if optimizer:
        rows.append(
            [
                "optimizer",
                f"{optimizer['name']}, learning rate {optimizer['learning_rate']:g}, {optimizer['schedule']}, warm-up "
                f"{optimizer['warmup_share']:.0%}",
            ]
        )
    if summary.get("val_loss_best") is not None:
        rows.append(["validation loss", f"{summary['val_loss_best']:.4f} nats a token"])
    if settings.get("seed") is not None:
        rows.append(["seed", str(settings["seed"])])
    rows.append(["adapter fingerprint", f"`{card['fingerprint']}`"])
    rows.append(["versions", ", ".join(f"{name} {version}" for name, version in card.get("versions", {}).items())])
    return _table(["", ""], rows)


def _quantisation(card: Mapping[str, Any]) -> str:
    quantisation = card.get("quantization")
    if not quantisation:
        return ""
    kind = f" {quantisation['type']}" if quantisation["bits"] == 4 else ""
    return f", base in {quantisation['bits']}-bit{kind}"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
