"""Columns of the archive that go with their tickets into the output: which can, and which cannot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from triagekit.data.collect import LOOK_AHEAD
from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.schema.schema import Schema
from triagekit.scoring.part_columns import output_columns


def check_carried(carried: Sequence[str], schemas: Iterable[Schema], present: Sequence[str]) -> None:
    """Raises ProblemsError for every column that is named twice, that the archive does not have, or whose name a column of
    the output has already. `present`: the archive's columns; none where they are not known.

    Names are compared without case, as most programs that read tables do.
    """
    problems = [
        Problem(
            f"carry '{name}'", f"there is no such column in the first {LOOK_AHEAD:,} rows.", did_you_mean(name, present)
        )
        for name in dict.fromkeys(carried)
        if present and name not in present
    ]
    own = {name.casefold(): name for schema in schemas for name in output_columns(schema)}
    for place, name in enumerate(carried):
        before = next((other for other in carried[:place] if other.casefold() == name.casefold()), None)
        if before is not None:
            told = "it is named twice" if before == name else f"most programs cannot tell it from '{before}'"
            problems.append(Problem(f"carry '{name}'", f"{told}.", "Name one of the two."))
        elif name.casefold() in own:
            hint = f"Give it another name in the mapping, such as rename: {{{name}: input_{name}}}, and carry that."
            problems.append(Problem(f"carry '{name}'", f"the output has a column '{own[name.casefold()]}'.", hint))
    if problems:
        raise ProblemsError("These columns of the archive cannot be carried into the output:", problems)
