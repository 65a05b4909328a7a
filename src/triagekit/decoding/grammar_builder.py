"""Builds a RecordGrammar: value tries and skeleton chains, from the last field back to the first, then flattened."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from triagekit.decoding.grammar import END, NO_FIELD, NO_VALUE, NULL, RecordGrammar, TextSpan
from triagekit.decoding.text_automaton import TextAutomaton, compile_text_automaton
from triagekit.decoding.token_bytes import vocabulary_bytes
from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.schema.compact import TEXT_OPENING
from triagekit.schema.fields import DependentEnumField, Field, TagsField, TextField, is_nullable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.schema.schema import Schema

NO_CONDITION = -1


@dataclass
class _Edge:
    target: int
    value: int = NO_VALUE
    last_tag: int = NO_CONDITION
    room: int = 0


@dataclass
class _Node:
    field: int = NO_FIELD
    text: int = -1
    edges: dict[int, _Edge] = dataclasses.field(default_factory=dict)


def build_grammar(segments: SegmentTokenizer, schema: Schema) -> RecordGrammar:
    """Compile; see RecordGrammar.compile."""
    if schema.format == "compact":
        from triagekit.decoding.compact_grammar import CompactGrammarBuilder

        return CompactGrammarBuilder(segments, schema).build()
    return GrammarBuilder(segments, schema).build()


class GrammarBuilder:
    """Builds the grammar of records in JSON."""

    escapes = True
    """Whether quotes and backslashes of free text stand behind a backslash."""
    null = "null"

    def __init__(self, segments: SegmentTokenizer, schema: Schema) -> None:
        self.segments = segments
        self.schema = schema
        self.fields: Sequence[Field] = self.schema.fields
        self.nodes: list[_Node] = [_Node()]  # node 0 is END
        self.texts: list[TextSpan] = []
        self.jump_field: list[int] = []
        self.jump_target: list[dict[int, int]] = []
        self.chains: dict[tuple[tuple[int, ...], int], int] = {}
        self.problems: list[Problem] = []
        self.automaton: TextAutomaton | None = None
        self.vocabulary: tuple[bytes | None, ...] = ()
        if any(isinstance(kind, TextField) for kind in self.fields):
            self._compile_text()

    def build(self) -> RecordGrammar:
        entry = END
        for index in range(len(self.fields) - 1, -1, -1):
            entry = self._field(index, entry)
        if self.problems:
            raise ProblemsError(f"Schema '{self.schema.name}' cannot be decoded with this tokenizer:", self.problems)
        return self._flatten(self._start_ids(), entry)

    def _start_ids(self) -> tuple[int, ...]:
        """What stands before the first value."""
        return self._ids("{" + json.dumps(self.fields[0].name, ensure_ascii=False) + ":" + self._opening(0))

    def _compile_text(self) -> None:
        tokenizer = self.segments.tokenizer
        # A model's output may be padded beyond the tokenizer; those ids are never written.
        self.vocabulary = tuple(vocabulary_bytes(tokenizer, len(tokenizer)))
        self.automaton = compile_text_automaton(self.vocabulary, self.escapes)
        needed = self.automaton.shortest()
        for kind in self.fields:
            if isinstance(kind, TextField) and kind.max_length < needed:
                self.problems.append(
                    Problem(f"field '{kind.name}'", f"no token is as short as max_length {kind.max_length} asks.")
                )

    # --- fields -----------------------------------------------------------------------------------------------------

    def _field(self, index: int, following: int) -> int:
        """Build the nodes of one field in front of `following`; returns the target that enters it."""
        kind = self.fields[index]
        if isinstance(kind, TextField):
            return self._text(index, kind, following)
        if isinstance(kind, TagsField):
            return self._tags(index, kind, following)
        if isinstance(kind, DependentEnumField):
            return self._dependent(index, kind, following)
        return self._values(index, range(len(kind.values)), following)

    def _text(self, index: int, kind: TextField, following: int) -> int:
        terminator, *rest = self._skeleton(index, quoted=True)
        self.texts.append(TextSpan(index, kind.max_length, terminator, self._chain(tuple(rest), following)))
        root = text = self._new(index)
        if kind.nullable:
            self._add_null(root, index, following)
            text = self._walk(root, self._ids(TEXT_OPENING), index)
        self.nodes[text].text = len(self.texts) - 1
        return root

    def _values(self, index: int, allowed: Sequence[int], following: int) -> int:
        """A trie of some values of an enum field, and null if it may be."""
        kind = self.fields[index]
        assert not isinstance(kind, TextField)
        root = self._new(index)
        if getattr(kind, "nullable", False):
            self._add_null(root, index, following)
        opening = self._value_opening(index)
        closing = self._skeleton(index, quoted=True)
        for value in allowed:
            tokens = (*opening, *self.segments.value_ids(kind.name, kind.values[value]))
            self._end(self._walk(root, tokens, index), closing, following, index, value)
        return root

    def _dependent(self, index: int, kind: DependentEnumField, following: int) -> int:
        """One trie per parent value; the jump reads which parent value was chosen."""
        parent_index = self.schema.field_names.index(kind.parent)
        parent = self.fields[parent_index]
        position = {value: number for number, value in enumerate(kind.values)}
        targets: dict[int, int] = {}
        shared: dict[tuple[int, ...], int] = {}
        choices: list[tuple[int, tuple[str, ...]]] = [
            (number, kind.values_by_parent.get(value, ()))
            for number, value in enumerate(parent.values)  # type: ignore[union-attr]
        ]
        if getattr(parent, "nullable", False):
            choices.append((NULL, ()))
        for number, values in choices:
            allowed = tuple(position[value] for value in values)
            if allowed not in shared:
                shared[allowed] = self._values(index, allowed, following)
            targets[number] = shared[allowed]
        self.jump_field.append(parent_index)
        self.jump_target.append(targets)
        return -2 - (len(self.jump_field) - 1)

    def _tags(self, index: int, kind: TagsField, following: int) -> int:
        closing = self._skeleton(index, quoted=False)
        root = self._new(index)
        self._end(self._walk(root, self._ids("[]"), index), closing, following, index, NO_VALUE)
        trie = self._walk(root, self._ids('["'), index)
        last = len(kind.values) - 1
        more, done = self._ids('","'), self._ids('"]')
        after_last = self._chain(closing, following)
        differing = (place for place, (one, other) in enumerate(zip(more, done, strict=False)) if one != other)
        common = next(differing, min(len(more), len(done)))
        if common in (len(more), len(done)):
            self._clash(index)
            return root
        ends = [
            self._walk(trie, self.segments.value_ids(kind.name, text), index, last_tag=value)
            for value, text in enumerate(kind.values)
        ]
        if common:
            # `",` before a further tag and `"]` after the last begin with the same token: they part behind it.
            parting = self._new(index)
            self._edge(parting, more[common], self._chain(more[common + 1 :], trie), index, last_tag=last, room=1)
            self._end(parting, done[common:], after_last, index, NO_VALUE)
            for value, end in enumerate(ends):
                self._edge(end, more[0], self._chain(more[1:common], parting), index, value, last_tag=value, room=1)
            return root
        for value, end in enumerate(ends):
            self._edge(end, done[0], self._chain(done[1:], after_last), index, value, last_tag=value, room=1)
            if value < last:
                self._edge(end, more[0], self._chain(more[1:], trie), index, value, last_tag=value, room=2)
        return root

    # --- nodes and edges --------------------------------------------------------------------------------------------

    def _new(self, field_index: int = NO_FIELD, text: int = -1) -> int:
        self.nodes.append(_Node(field_index, text))
        return len(self.nodes) - 1

    def _chain(self, tokens: tuple[int, ...], target: int) -> int:
        """Forced tokens in front of `target`; equal chains are shared."""
        if not tokens:
            return target
        if (tokens, target) not in self.chains:
            node = self._new()
            self.nodes[node].edges[tokens[0]] = _Edge(self._chain(tokens[1:], target))
            self.chains[(tokens, target)] = node
        return self.chains[(tokens, target)]

    def _walk(self, root: int, tokens: Sequence[int], index: int, last_tag: int = NO_CONDITION, room: int = 0) -> int:
        """Follow `tokens` from `root`, adding what is missing; returns the node they lead to."""
        node = root
        for token in tokens:
            edge = self.nodes[node].edges.get(token)
            if edge is None:
                edge = self.nodes[node].edges[token] = _Edge(self._new(index), last_tag=last_tag, room=room)
            elif edge.value != NO_VALUE or self._leaves(edge.target, index):
                self._clash(index)
            # A tag edge serves every tag below it: the highest of them decides whether it can still be taken.
            edge.last_tag = max(edge.last_tag, last_tag)
            node = edge.target
        return node

    def _edge(
        self,
        node: int,
        token: int,
        target: int,
        index: int,
        value: int = NO_VALUE,
        last_tag: int = NO_CONDITION,
        room: int = 0,
    ) -> None:
        if token in self.nodes[node].edges:
            self._clash(index)
            return
        self.nodes[node].edges[token] = _Edge(target, value, last_tag, room)

    def _end(self, end: int, tokens: Sequence[int], following: int, index: int, value: int) -> None:
        """From the end of a value: `tokens` close it on the way to `following`, and the first of them settles it."""
        self._edge(end, tokens[0], self._chain(tuple(tokens[1:]), following), index, value)

    def _add_null(self, root: int, index: int, following: int) -> None:
        closing = self._skeleton(index, quoted=False)
        self._end(self._walk(root, self._ids(self.null), index), closing, following, index, NULL)

    def _leaves(self, node: int, index: int) -> bool:
        """Whether a target lies outside the field's own trie, so that nothing may be added below it."""
        return node <= END or self.nodes[node].field != index or self.nodes[node].text >= 0

    def _clash(self, index: int) -> None:
        problem = Problem(
            f"field '{self.fields[index].name}'",
            "two of its values become the same tokens, or one cannot be told from the beginning of another.",
            "Rename one of them (values that differ only by case, accents or unknown characters are the usual cause).",
        )
        if problem not in self.problems:
            self.problems.append(problem)

    # --- text of the skeleton ---------------------------------------------------------------------------------------

    def _ids(self, text: str) -> tuple[int, ...]:
        ids = tuple(self.segments.encode_piece(text))
        if not ids:
            raise TriageError(f"The tokenizer makes no token of {text!r}, which every record holds.")
        return ids

    def _opening(self, index: int) -> str:
        """The quote that opens a field's value, where skeleton holds it: not before null, and not before an array."""
        kind = self.fields[index]
        return "" if isinstance(kind, TagsField) or kind.nullable else '"'

    def _value_opening(self, index: int) -> tuple[int, ...]:
        """What opens the value of a label that might have been null."""
        return self._ids('"') if is_nullable(self.fields[index]) else ()

    def _skeleton(self, index: int, quoted: bool) -> tuple[int, ...]:
        """Tokens between the value of field `index` and that of the next field, or the end of the record."""
        closing = '"' if quoted else ""
        if index + 1 == len(self.fields):
            return self._ids(closing + "}")
        name = json.dumps(self.fields[index + 1].name, ensure_ascii=False)
        return self._ids(f"{closing},{name}:{self._opening(index + 1)}")

    def _flatten(self, start_ids: tuple[int, ...], start: int) -> RecordGrammar:
        edges = [(token, edge) for node in self.nodes for token, edge in sorted(node.edges.items())]
        counts = [len(node.edges) for node in self.nodes]
        return RecordGrammar(
            schema=self.schema,
            start_ids=start_ids,
            start_target=start,
            edge_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            edge_token=np.array([token for token, _ in edges], dtype=np.int64),
            edge_target=np.array([edge.target for _, edge in edges], dtype=np.int64),
            edge_value=np.array([edge.value for _, edge in edges], dtype=np.int64),
            edge_last_tag=np.array([edge.last_tag for _, edge in edges], dtype=np.int64),
            edge_room=np.array([edge.room for _, edge in edges], dtype=np.int64),
            node_field=np.array([node.field for node in self.nodes], dtype=np.int64),
            node_text=np.array([node.text for node in self.nodes], dtype=np.int64),
            jump_field=tuple(self.jump_field),
            jump_target=tuple(self.jump_target),
            texts=tuple(self.texts),
            escapes=self.escapes,
            automaton=self.automaton,
            vocabulary=self.vocabulary,
        )
