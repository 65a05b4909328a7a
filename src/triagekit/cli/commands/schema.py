"""`triage schema`: show, check, draft a ticket schema; print its JSON Schema or prompt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.cli.actions import add_action
from triagekit.cli.output import print_json, print_table
from triagekit.errors import TriageError

if TYPE_CHECKING:
    from triagekit.schema import Schema
    from triagekit.schema.infer import InferredSchema


def configure(parser: argparse.ArgumentParser) -> None:
    """Sub-commands show, check, json-schema, prompt, infer."""
    parser.epilog = "Example: triage schema show it_tickets > mine.yaml && triage schema check mine.yaml"
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    show = add_action(
        commands, "show", "print the YAML of a schema as it stands", "triage schema show it_tickets > mine.yaml"
    )
    _add_name(show)
    show.add_argument("--json", action="store_true", help="the schema as read, defaults filled in, as JSON")
    show.set_defaults(run=run_show)

    check = add_action(commands, "check", "read a schema; every mistake with its line", "triage schema check mine.yaml")
    _add_name(check)
    check.add_argument("--json", action="store_true", help="the summary as JSON")
    check.set_defaults(run=run_check)

    own = add_action(
        commands, "json-schema", "print JSON Schema 2020-12", "triage schema json-schema it_tickets > it.json"
    )
    _add_name(own)
    own.set_defaults(run=run_json_schema)

    prompt = add_action(commands, "prompt", "print what the model is told", "triage schema prompt it_tickets")
    _add_name(prompt)
    prompt.add_argument(
        "--strategy",
        choices=("explicit", "implicit"),
        default="explicit",
        help="explicit: fields and values; implicit: the short instructions (default: explicit)",
    )
    prompt.set_defaults(run=run_prompt)

    infer = add_action(
        commands,
        "infer",
        "draft a schema from labelled data",
        "triage schema infer tickets.csv --fields category,subcategory --parent subcategory=category --out mine.yaml",
    )
    infer.add_argument(
        "file", type=Path, help="CSV, TSV, JSON, JSONL, Parquet, also .gz and .zst; or a folder of these"
    )
    infer.add_argument("--fields", required=True, help="label columns in the order wanted in the record: a,b,c")
    infer.add_argument(
        "--parent", action="append", default=[], metavar="CHILD=PARENT", help="CHILD's values depend on PARENT's"
    )
    infer.add_argument("--text", action="append", default=[], metavar="COLUMN", help="make this column free text")
    infer.add_argument("--max-values", type=int, default=100, metavar="N", help="values of one field (default: 100)")
    infer.add_argument("--name", help="name of the schema (default: the file's)")
    infer.add_argument("--out", type=Path, help="write the YAML here instead of printing it")
    infer.add_argument("--json", action="store_true", help="schema, counts and notes as JSON")
    infer.set_defaults(run=run_infer)


def run_show(options: argparse.Namespace) -> int:
    """The YAML text itself: needs no library, so that it works wherever the package is."""
    if options.json:
        from triagekit.schema.load import load_schema

        print_json(load_schema(options.schema).to_dict())
        return 0
    from triagekit.files.resources import find_config

    path = find_config("schema", options.schema)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TriageError(f"Cannot read {path}: {error}") from None
    sys.stdout.write(text)
    return 0


def run_check(options: argparse.Namespace) -> int:
    """A table of the fields; main prints the mistakes if there are any."""
    from triagekit.schema.load import load_schema

    schema = load_schema(options.schema)
    if options.json:
        print_json({"name": schema.name, "fingerprint": schema.fingerprint, "fields": list(schema.field_names)})
        return 0
    print_table(f"{schema.name}: {schema.title}", ("field", "kind", "values", "notes"), _field_rows(schema))
    print(f"No mistakes. Fingerprint {schema.fingerprint}")
    return 0


def run_json_schema(options: argparse.Namespace) -> int:
    """JSON Schema on stdout."""
    from triagekit.schema.json_schema import json_schema
    from triagekit.schema.load import load_schema

    print_json(json_schema(load_schema(options.schema)))
    return 0


def run_prompt(options: argparse.Namespace) -> int:
    """The system message, or the rotating instructions one a line."""
    from triagekit.schema.load import load_schema
    from triagekit.schema.prompt import schema_prompt

    schema = load_schema(options.schema)
    print(schema_prompt(schema) if options.strategy == "explicit" else "\n".join(schema.instructions))
    return 0


def run_infer(options: argparse.Namespace) -> int:
    """The drafted YAML on stdout or in a file; tables and notes on what was found."""
    from triagekit.files.atomic import write_text
    from triagekit.schema.infer import field_name, infer_schema

    columns = [column.strip() for column in options.fields.split(",") if column.strip()]
    parents = dict(_parent(text) for text in options.parent)
    rejected: dict[str, int] = {}
    name = options.name or field_name(options.file.name.split(".")[0])
    inferred = infer_schema(
        _rows(options.file, rejected), columns, name, parents, tuple(options.text), options.max_values
    )
    if options.out:
        write_text(options.out, inferred.yaml)
    if options.json:
        print_json(
            {
                "schema": inferred.schema.to_dict(),
                "counts": inferred.counts,
                "columns": [vars(column) for column in inferred.columns],
                "notes": list(inferred.notes),
                "rejected": rejected,
            }
        )
    elif options.out:
        _print_findings(inferred)
        print(f"Written to {options.out}. Look it over, then: triage schema check {options.out}")
    else:
        sys.stdout.write(inferred.yaml)
    for reason, count in rejected.items():
        print(f"triage: {count:,} rows left out: {reason}", file=sys.stderr)
    return 0


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("schema", metavar="NAME_OR_PATH", help="a shipped name such as it_tickets, or a YAML file")


def _field_rows(schema: Schema) -> Iterator[tuple[str, str, str, str]]:
    from triagekit.schema import DependentEnumField, EnumField, TagsField, TextField
    from triagekit.schema.fields import is_nullable

    for field in schema.fields:
        notes = ["optional"] if is_nullable(field) else []
        if isinstance(field, TextField):
            yield field.name, "text", "", ", ".join([f"at most {field.max_length} characters", *notes])
            continue
        if isinstance(field, DependentEnumField):
            notes.insert(0, f"depends on {field.parent}")
        elif isinstance(field, TagsField):
            notes.insert(0, f"at most {field.max_items}")
        elif field.ordered:
            notes.insert(0, "ordered")
        if isinstance(field, EnumField | DependentEnumField) and field.aliases:
            count = len(field.aliases)
            notes.append(f"{count} alias{'es' if count > 1 else ''}")
        yield field.name, "tags" if isinstance(field, TagsField) else "enum", str(len(field.values)), ", ".join(notes)


def _parent(text: str) -> tuple[str, str]:
    child, equals, parent = (part.strip() for part in text.partition("="))
    if not (child and equals and parent):
        raise TriageError(f"--parent '{text}': expected CHILD=PARENT, for example --parent subcategory=category")
    return child, parent


def _rows(path: Path, rejected: dict[str, int]) -> Iterator[Mapping[str, Any]]:
    from triagekit.data.sources import RawRow, read_source

    for piece in read_source(path):
        if isinstance(piece, RawRow):
            yield piece.values
        else:
            rejected[piece.reason] = rejected.get(piece.reason, 0) + 1


def _print_findings(inferred: InferredSchema) -> None:
    print_table(
        f"{inferred.schema.name}: columns",
        ("field", "kind", "depends on", "distinct", "absent", "longest"),
        [(c.field, c.kind, c.parent or "", c.distinct, c.missing, c.longest) for c in inferred.columns],
    )
    for name, counts in inferred.counts.items():
        if counts:
            total = sum(counts.values())
            shown = sorted(counts.items(), key=lambda item: -item[1])
            rows = [(value, count, f"{count / total:.1%}") for value, count in shown[:20]]
            title = f"{name}: {len(counts)} values" + (", the 20 most frequent" if len(counts) > 20 else "")
            print_table(title, ("value", "rows", "share"), rows)
    for note in inferred.notes:
        print(f"- {note}")
