"""Builds the grammar of records in the compact format (`schema.compact`): the same tries without keys and quotes."""

from __future__ import annotations

from triagekit.decoding.grammar import NO_VALUE
from triagekit.decoding.grammar_builder import GrammarBuilder
from triagekit.schema.compact import NULL, SEPARATOR, TAG_END
from triagekit.schema.fields import TagsField


class CompactGrammarBuilder(GrammarBuilder):
    """Values behind one another, each with the separator behind it. Nothing stands before the first."""

    escapes = False
    null = NULL

    def _start_ids(self) -> tuple[int, ...]:
        return ()

    def _value_opening(self, index: int) -> tuple[int, ...]:
        return ()

    def _skeleton(self, index: int, quoted: bool) -> tuple[int, ...]:
        return self._ids(SEPARATOR)

    def _tags(self, index: int, kind: TagsField, following: int) -> int:
        root = self._new(index)
        self._end(root, self._ids(SEPARATOR), following, index, NO_VALUE)
        first, *rest = self._ids(TAG_END)
        again = self._chain(tuple(rest), root)
        for value, text in enumerate(kind.values):
            end = self._walk(root, self.segments.value_ids(kind.name, text), index, last_tag=value, room=1)
            self._edge(end, first, again, index, value, last_tag=value, room=1)
        return root
