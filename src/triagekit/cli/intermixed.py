"""A parser that takes `key=value` words before, between and after its options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


class IntermixedParser(argparse.ArgumentParser):
    """For sub-commands with a list of words: argparse alone takes only the words before the first option."""

    _inside = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's, with options and words in any order."""
        if self._inside or self._subparsers is not None:  # a parser of sub-commands leaves the words to them
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False
