"""The prompt template: chat-template text before and after the ticket, rendered once from the base's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError
from triagekit.files.fingerprint import fingerprint_json
from triagekit.modeling.settings import PromptSettings
from triagekit.schema.prompt import schema_prompt
from triagekit.schema.schema import Schema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PromptSettings", "PromptTemplate"]

_TICKET = "TICKETGOESHERE"
_RECORD = "RECORDGOESHERE"
# Templates that print today's date would give another prompt every day. A macro of the same name hides the clock.
_FIXED_DATE = "26 Jul 2024"
_NO_CLOCK = "{%- macro strftime_now(format) -%}" + _FIXED_DATE + "{%- endmacro -%}"

Message = dict[str, str]


class PromptTemplate:
    """Text around the ticket. One prefix a variant, one suffix for all; fixed for a run and stored with its adapter.

    Variant 0 is what scoring uses. Strategy `explicit` has one variant (the schema in the system message), `implicit`
    one for each of the schema's instructions, `mixed` the explicit one and then the implicit ones.
    Raises TriageError when the tokenizer's chat template cannot be rendered with any arrangement of the messages.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, schema: Schema, settings: PromptSettings) -> None:
        schema = schema.in_format(settings.record_format or schema.format)
        self.schema = schema
        self.settings = settings
        rendered = [_render(tokenizer, system, before) for system, before in _messages(schema, settings)]
        suffixes = {suffix for _, suffix in rendered}
        if len(suffixes) != 1:
            raise TriageError(
                f"The base's chat template ends the prompt differently for different instructions: {sorted(suffixes)}."
            )
        self._prefixes = tuple(prefix for prefix, _ in rendered)
        self._suffix = suffixes.pop()
        self.end_of_turn_id, self.end_of_turn = _end_of_turn(tokenizer)

    @property
    def variants(self) -> int:
        """Number of different prefixes."""
        return len(self._prefixes)

    def prefix_text(self, variant: int) -> str:
        """Text before the ticket."""
        return self._prefixes[variant]

    @property
    def suffix_text(self) -> str:
        """Text after the ticket, up to and including the opening of the assistant's turn."""
        return self._suffix

    @property
    def fingerprint(self) -> str:
        """Content fingerprint: prefixes, suffix, end of turn, strategy, length, format of the records."""
        return fingerprint_json(
            {
                "prefixes": self._prefixes,
                "suffix": self._suffix,
                "end_of_turn_id": self.end_of_turn_id,
                "strategy": self.settings.strategy,
                "max_length": self.settings.max_length,
                # Left out where it is JSON: adapters made before there was another format keep their fingerprint.
                **({"format": self.schema.format} if self.schema.format != "json" else {}),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with the texts as rendered: from_dict needs no chat template."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "prefixes": list(self._prefixes),
            "suffix": self._suffix,
            "end_of_turn": self.end_of_turn,
            "end_of_turn_id": self.end_of_turn_id,
            "schema": self.schema.to_dict(),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_dict(cls, tokenizer: PreTrainedTokenizerBase, stored: Mapping[str, Any]) -> PromptTemplate:
        """The template as it was stored. Raises TriageError when `tokenizer` spells the end of turn by another id."""
        template = cls.__new__(cls)
        template.schema = Schema.from_dict(stored["schema"])
        template.settings = PromptSettings.model_validate(stored["settings"])
        template._prefixes = tuple(stored["prefixes"])
        template._suffix = stored["suffix"]
        template.end_of_turn = stored["end_of_turn"]
        template.end_of_turn_id = stored["end_of_turn_id"]
        given = tokenizer.convert_tokens_to_ids(template.end_of_turn)
        if given != template.end_of_turn_id:
            raise TriageError(
                f"The stored template ends a turn with {template.end_of_turn!r} = token {template.end_of_turn_id}, "
                f"but this tokenizer gives it {given}: it is not the tokenizer that the adapter was trained with."
            )
        return template


def _messages(schema: Schema, settings: PromptSettings) -> list[tuple[str, str]]:
    """(system text, text before the ticket in the user's turn) of each variant."""
    explicit = [(schema_prompt(schema), "")]
    implicit = [("", f"{instruction}\n\n") for instruction in schema.instructions]
    if settings.strategy != "explicit" and not implicit:
        raise TriageError(
            f"prompt.strategy: {settings.strategy} needs instructions, but schema '{schema.name}' has none. "
            "Add an 'instructions:' list to the schema, or use strategy: explicit."
        )
    return {"explicit": explicit, "implicit": implicit, "mixed": explicit + implicit}[settings.strategy]


def _render(tokenizer: PreTrainedTokenizerBase, system: str, before: str) -> tuple[str, str]:
    """(prefix, suffix) text around the ticket."""
    user = f"{before}{_TICKET}"
    if not tokenizer.chat_template:
        return _render_plain(tokenizer, system, before)
    arrangements: list[list[Message]] = [[{"role": "user", "content": f"{system}\n\n{user}" if system else user}]]
    if system:
        arrangements.insert(0, [{"role": "system", "content": system}, {"role": "user", "content": user}])
    failures = []
    for messages in arrangements:
        try:
            text = _apply(tokenizer, messages, add_generation_prompt=True)
        except Exception as error:  # a template raises whatever its author chose: Jinja's errors, TypeError, …
            failures.append(f"{'+'.join(message['role'] for message in messages)}: {error}")
            continue
        # Some templates drop the system message, or lower its case, without a word.
        if text.count(_TICKET) == 1 and system.strip() in text and before.strip() in text:
            prefix, _, suffix = text.partition(_TICKET)
            return prefix, suffix
        failures.append(f"{'+'.join(message['role'] for message in messages)}: texts missing or repeated in the result")
    raise TriageError(f"The base's chat template cannot hold the prompt. Tried {'; '.join(failures)}.")


def _render_plain(tokenizer: PreTrainedTokenizerBase, system: str, before: str) -> tuple[str, str]:
    """For bases without a chat template: the Alpaca layout, begun with the BOS token if the tokenizer adds one."""
    instruction = system or before.strip()
    ids = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    begins = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
    opening = str(tokenizer.bos_token) if begins else ""
    return f"{opening}### Instruction:\n{instruction}\n\n### Input:\n", "\n\n### Output:\n"


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[int, str]:
    """Id and text of the token that closes the assistant's turn: the first special token after its message."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": _TICKET}, {"role": "assistant", "content": _RECORD}]
        try:
            after = _apply(tokenizer, turns, add_generation_prompt=False).partition(_RECORD)[2]
        except Exception as error:
            raise TriageError(f"The base's chat template cannot render an assistant's turn: {error}") from None
        special = _special_ids(tokenizer)
        for token_id in tokenizer(after, add_special_tokens=False)["input_ids"]:
            if token_id in special:
                return int(token_id), str(tokenizer.convert_ids_to_tokens(token_id))
    if tokenizer.eos_token_id is None:
        raise TriageError(
            "The base's tokenizer has no end token and its chat template closes no turn; choose another base."
        )
    return int(tokenizer.eos_token_id), str(tokenizer.eos_token)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """The chat as text, with thinking switched off and the date fixed."""
    template = tokenizer.get_chat_template()
    return str(
        tokenizer.apply_chat_template(
            list(messages),
            chat_template=_NO_CLOCK + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
            date_string=_FIXED_DATE,
        )
    )
