"""How much a decoder has done, and how much of it was padding and waiting."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class DecodeCounts:
    """What a decoder has done so far. Waste is measured where it arises: in attention, the only place with padding."""

    rows: int = 0
    passes: int = 0
    tokens: int = 0
    """Through the model, the prefix left out."""
    padded_prompt_tokens: int = 0
    """That attention went over, padding among them; equal to `prompt_tokens` where a kernel needs none."""
    prompt_tokens: int = 0
    slot_steps: int = 0
    busy_slot_steps: int = 0

    def add(self, other: DecodeCounts) -> None:
        """Count what another has counted too."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def prompt_padding(self) -> float:
        """Share of padding in the attention of prompts, 0 to 1."""
        return 1 - self.prompt_tokens / self.padded_prompt_tokens if self.padded_prompt_tokens else 0.0

    @property
    def idle_slots(self) -> float:
        """Share of slots without a row, over all steps, 0 to 1."""
        return 1 - self.busy_slot_steps / self.slot_steps if self.slot_steps else 0.0
