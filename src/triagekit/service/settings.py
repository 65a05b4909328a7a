"""Settings of the service: the run, the address, and every bound that keeps it alive under load."""

from __future__ import annotations

import ipaddress
from typing import Self

from pydantic import Field, model_validator

from triagekit.modeling.settings import ScoringPrecision
from triagekit.scoring.settings import BOTH_THRESHOLDS
from triagekit.settings import Settings


class ServeSettings(Settings):
    """What is served, where, and how much is taken in. Seconds and bytes unless said otherwise."""

    run: str = Field(description="runs/<name> or an adapter folder")
    base: str | None = Field(default=None, description="another place of the same base model; its content is checked")
    device: str | None = Field(default=None, description="cpu or cuda; null: cuda where there is one")
    precision: ScoringPrecision = Field(default="auto", description="of the weights")
    fields: list[str] | None = Field(
        default=None, description="answer these fields only; [labels]: all but free text; null: all"
    )
    auto_threshold: float | None = Field(
        default=None, ge=0, le=1, description="verdict review where a label is less sure than this"
    )
    auto_at: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="verdict review where the calibrated chance that all labels are right is less than this",
    )

    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0: any free one")
    token_variable: str = Field(
        default="TRIAGEKIT_TOKEN", min_length=1, description="environment variable that holds the bearer token"
    )
    token_file: str | None = Field(default=None, description="file that holds the bearer token; before the variable")
    without_token: bool = Field(default=False, description="listen for other machines although there is no token")

    batch_size: int = Field(default=64, ge=1, description="tickets decoded at once")
    gather_milliseconds: float = Field(default=5.0, ge=0, le=1000, description="how long a ticket waits for company")
    queue_tickets: int = Field(default=1024, ge=1, description="tickets that may wait; beyond: 429")
    max_tickets: int = Field(default=256, ge=1, description="tickets of one request; beyond: 422")
    max_characters: int = Field(default=20_000, ge=1, description="characters of one ticket; beyond: 422")
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=64, description="bytes of a request's body; beyond: 413")
    max_connections: int = Field(default=256, ge=1, description="open connections; beyond: 503")
    timeout_seconds: float = Field(
        default=60.0, gt=0, description="from a request's arrival to its answer; beyond: 503"
    )
    header_seconds: float = Field(default=10.0, gt=0, description="for a client to send a request's head")
    grace_seconds: float = Field(default=20.0, ge=0, description="for what is queued, once asked to stop")

    @model_validator(mode="after")
    def _one_threshold(self) -> Self:
        if self.auto_at is not None and self.auto_threshold is not None:
            raise ValueError(BOTH_THRESHOLDS)
        return self

    @model_validator(mode="after")
    def _a_full_request_fits(self) -> Self:
        if self.max_tickets > self.queue_tickets:
            raise ValueError(
                f"max_tickets ({self.max_tickets}) is more than queue_tickets ({self.queue_tickets}): the largest request "
                "would be refused even by an empty queue"
            )
        return self

    @property
    def for_this_machine_only(self) -> bool:
        """Whether `host` is a loopback address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
