"""Tickets and records to token ids, the one place that training and scoring share.

A record is tokenised by segments (skeleton, value, skeleton, …, end of turn), each by itself, so that the tokens that
scoring forces are exactly those that training saw. In the compact format a label is written by the first of its tokens
that tell it from the field's other values. The prompt is prefix + ticket + suffix, each by itself too: the
prefix is the same for every row and its keys and values can be computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError
from triagekit.modeling.pieces import PieceEncoder
from triagekit.modeling.record_pieces import record_reserve
from triagekit.modeling.template import PromptTemplate
from triagekit.schema.canonical import escape, record_segments
from triagekit.schema.compact import SEPARATOR, TAG_END, shortest_beginnings
from triagekit.schema.schema import Schema
from triagekit.schema.segment import Segment
from triagekit.schema.subset import select_fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARITY_SAMPLES = 16


@dataclass(frozen=True)
class TokenisedExample:
    """One training row. `input_ids`, `trained` and `fields` have one entry a token.

    `trained`: True for the record's tokens and the end of turn. `fields`: index of the schema field for the tokens of
    its value, -1 elsewhere. The first `prompt_length` tokens are the prompt.
    """

    input_ids: list[int]
    trained: list[bool]
    fields: list[int]
    prompt_length: int
    ticket_tokens_cut: int
    variant: int


class SegmentTokenizer:
    """Encodes by the rules above. Raises TriageError for a tokenizer whose pieces do not join to the same text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.schema: Schema = template.schema
        self._pieces = PieceEncoder(tokenizer)
        self._prefixes = [self._pieces.encode_trusted(template.prefix_text(n)) for n in range(template.variants)]
        self._suffix = self._pieces.encode_trusted(template.suffix_text)
        self._field_index = {field.name: number for number, field in enumerate(self.schema.fields)}
        self._short: dict[str, dict[str, tuple[int, ...]]] = {}
        if self.schema.format == "compact":
            self._check_marks()
            self._short = {field.name: self._shortest(field.values) for field in self.schema.label_fields}
        self.record_reserve: int = record_reserve(self) + len(self.end_ids)

    def encode_piece(self, text: str) -> tuple[int, ...]:
        """Token ids of a piece of a record, cached. Text that looks like a special token stays plain text."""
        return self._pieces.encode(text)

    def value_ids(self, field: str, value: str) -> tuple[int, ...]:
        """Token ids of one of the values of a label, as the schema's format has them."""
        return self._short[field][value] if self._short else self.encode_piece(escape(value))

    def prefix_ids(self, variant: int) -> tuple[int, ...]:
        """Token ids before the ticket, the same for every row of this variant."""
        return self._prefixes[variant]

    @property
    def suffix_ids(self) -> tuple[int, ...]:
        """Token ids after the ticket."""
        return self._suffix

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end of turn."""
        return (self.template.end_of_turn_id,)

    def ticket_ids(self, text: str, room: int | None) -> tuple[list[int], int]:
        """Token ids of a ticket, at most `room` of them (None: all), and the number cut from its end."""
        ids = list(self._pieces.encode_uncached(_encodable(text.strip())))
        if room is None or len(ids) <= room:
            return ids, 0
        return ids[:room], len(ids) - room

    def ticket_room(self, variant: int = 0, record_length: int = 0) -> int:
        """Tokens left for the ticket in a prompt of `variant`, for a record of up to `record_length` tokens.

        Raises TriageError with the figures when there is none.
        """
        limit = self.template.settings.max_length
        prefix, suffix = len(self._prefixes[variant]), len(self._suffix)
        reserve = max(self.record_reserve, record_length)
        room = limit - prefix - suffix - reserve
        if room < 1:
            raise TriageError(
                f"prompt.max_length {limit} leaves no room for the ticket: instruction and schema take {prefix} tokens, "
                f"the answer's opening {suffix}, the longest record {reserve}. Set prompt.max_length to at least "
                f"{prefix + suffix + reserve + 128}, or shorten the prompt: strategy implicit, fewer or shorter "
                "values, a smaller max_length of text fields."
            )
        return room

    def prompt_ids(self, text: str, variant: int = 0) -> list[int]:
        """prefix + ticket (cut at its end to fit) + suffix."""
        ticket, _ = self.ticket_ids(text, self.ticket_room(variant))
        return [*self._prefixes[variant], *ticket, *self._suffix]

    def record_ids(
        self, record: Mapping[str, Any], fields: Sequence[str] | None = None
    ) -> list[tuple[Segment, tuple[int, ...]]]:
        """The record's segments with their token ids, of all fields or of `fields`; the end of turn is not among them."""
        schema = self.schema
        if fields is not None:
            schema = select_fields(schema, fields)
            record = {name: record[name] for name in schema.field_names}
        return [(segment, self._segment_ids(segment)) for segment in record_segments(schema, record)]

    def encode_example(
        self, text: str, record: Mapping[str, Any], variant: int = 0, fields: Sequence[str] | None = None
    ) -> TokenisedExample:
        """One training row. The ticket is cut to fit, never the schema or the record. `fields`: write these only, as scoring
        does that is asked for them; raises ProblemsError for fields that cannot stand alone."""
        segments = self.record_ids(record, fields)
        answer = [token for _, ids in segments for token in ids] + list(self.end_ids)
        ticket, cut = self.ticket_ids(text, self.ticket_room(variant, len(answer)))
        prompt = [*self._prefixes[variant], *ticket, *self._suffix]
        owners = [-1] * len(prompt)
        for segment, ids in segments:
            owner = -1 if segment.kind == "skeleton" else self._field_index[str(segment.field)]
            owners.extend([owner] * len(ids))
        owners.extend([-1] * len(self.end_ids))
        return TokenisedExample(
            input_ids=prompt + answer,
            trained=[False] * len(prompt) + [True] * len(answer),
            fields=owners,
            prompt_length=len(prompt),
            ticket_tokens_cut=cut,
            variant=variant,
        )

    def _check_marks(self) -> None:
        for mark in (SEPARATOR, TAG_END):
            if self.decode(self.encode_piece(mark)) != mark:
                raise TriageError(
                    f"The base's tokenizer cannot write {mark!r} by itself, which the compact format puts behind values. "
                    "Use record_format: json with this base."
                )

    def _segment_ids(self, segment: Segment) -> tuple[int, ...]:
        short = self._short.get(segment.field or "", {}).get(segment.text) if segment.kind == "value" else None
        return self.encode_piece(segment.text) if short is None else short

    def _shortest(self, values: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Value → the first of its tokens, as many as tell it from the others."""

        def beginnings(value: str) -> Iterator[str]:
            ids = self.encode_piece(value)
            texts = (self.decode(ids[:length]) for length in range(1, len(ids)))
            # A token can end in the middle of a character, and then its text is none.
            yield from (text for text in texts if text and value.startswith(text))

        short = shortest_beginnings(values, beginnings)
        found = {}
        for value, text in short.items():
            ids = self.encode_piece(value)
            lengths = (length for length in range(1, len(ids)) if self.decode(ids[:length]) == text)
            found[value] = ids[: next(lengths, len(ids))]
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Exact text of token ids, special tokens included."""
        return self._pieces.decode(list(ids))

    def parity_samples(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """Up to 16 prompts with their ids, variants in turn: kept in the adapter folder and compared at loading."""
        return [
            {
                "text": text,
                "variant": number % self.template.variants,
                "ids": self.prompt_ids(text, number % self.template.variants),
            }
            for number, text in enumerate(texts[:PARITY_SAMPLES])
        ]


def _encodable(text: str) -> str:
    """Half surrogates, which stand for no character and no tokenizer takes, as question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
