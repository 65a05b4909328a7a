"""A schema with fewer of its fields: what is scored when not all of a record is wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.schema.fields import DependentEnumField, TextField
from triagekit.schema.schema import Schema

LABELS = "labels"
"""Stands for all fields but free text."""


def select_fields(schema: Schema, names: Sequence[str]) -> Schema:
    """`schema` with the fields named, in its own order; ["labels"] takes all but free text, unless a field is called so.

    Raises ProblemsError for names that it does not have, for none at all, and for a dependent field without its parent.
    """
    if list(names) == [LABELS] and LABELS not in schema.field_names:
        names = [field.name for field in schema.fields if not isinstance(field, TextField)]
    known = list(schema.field_names)
    problems = [
        Problem(f"field '{name}'", f"schema '{schema.name}' does not have it.", did_you_mean(name, known))
        for name in names
        if name not in known
    ]
    kept = tuple(field for field in schema.fields if field.name in names)
    problems += [
        Problem(
            f"field '{field.name}'",
            f"its values depend on '{field.parent}', which is not among the fields.",
            f"Add {field.parent}.",
        )
        for field in kept
        if isinstance(field, DependentEnumField) and field.parent not in names
    ]
    if schema.format == "compact" and not problems and kept != schema.fields[: len(kept)]:
        missing = ", ".join(field.name for field in schema.fields[: schema.fields.index(kept[-1])] if field not in kept)
        problems.append(
            Problem(
                "fields",
                f"in the compact format a value is known by its line alone, so that none before it can be left out: {missing}.",
                "Name these too, or train with `prompt.record_format: json`.",
            )
        )
    if not kept and not problems:
        problems.append(Problem("fields", "none is named.", f"Name some of {', '.join(known)}, or `{LABELS}`."))
    if problems:
        raise ProblemsError(f"These fields of schema '{schema.name}' cannot be scored:", problems)
    return dataclasses.replace(schema, fields=kept)
