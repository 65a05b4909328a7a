"""The learning rate of each method: the one that is best on the validation split with the first seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from triagekit.errors import TriageError
from triagekit.sweep.settings import RATE, SEED, Member, SweepSettings, possible_members
from triagekit.training.run_folder import RunFolder


@dataclass(frozen=True)
class RateChoice:
    """What came of trying the learning rates of one method. `val_losses`: best validation loss of each rate, in nats a
    token; None while its run is not finished. `chosen` is None until all are."""

    method: str
    val_losses: dict[float, float | None]
    chosen: float | None

    @property
    def at_the_edge(self) -> bool:
        """Whether the best rate is the lowest or highest that was tried, so that a better one may lie beyond."""
        return self.chosen in (min(self.val_losses), max(self.val_losses))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"method": self.method, "val_losses": self.val_losses, "chosen": self.chosen}


def members_of(sweep: SweepSettings) -> tuple[Member, ...]:
    """The runs of a sweep as far as they are known: where learning rates are tried, the further seeds' runs follow when
    those of the first seed are finished.

    Raises ProblemsError as possible_members does.
    """
    possible = possible_members(sweep)
    known = {
        member.name
        for group in _groups(sweep, possible)
        for member in group.members
        if group.is_trial(member) or member.axes.get(RATE) == group.choice().chosen
    }
    return tuple(member for member in possible if member.name in known)


def chosen_members(sweep: SweepSettings) -> tuple[Member, ...]:
    """The runs that are compared: of every method those with its chosen learning rate, all seeds."""
    possible = possible_members(sweep)
    chosen = {
        member.name
        for group in _groups(sweep, possible)
        for member in group.members
        if member.axes.get(RATE) == group.choice().chosen
    }
    return tuple(member for member in possible if member.name in chosen)


def rate_choices(sweep: SweepSettings) -> list[RateChoice]:
    """Of each method that tries several learning rates, how they did; [] for a sweep in which none does."""
    choices = (group.choice() for group in _groups(sweep, possible_members(sweep)))
    return [choice for choice in choices if len(choice.val_losses) > 1]


def method_of(member: Member) -> str:
    """What the member is called in a report, without learning rate and seed: `hybrid`, or `lora, adapter.r=8`."""
    own = {key: value for key, value in member.axes.items() if key not in (SEED, RATE)}
    return ", ".join(str(value) if key == "method" else f"{key}={value}" for key, value in own.items())


@dataclass(frozen=True)
class _Group:
    """Members that differ in learning rate and seed alone."""

    name: str
    members: tuple[Member, ...]

    def is_trial(self, member: Member) -> bool:
        """Whether the member is one of those the rate is chosen by."""
        return member.axes.get(SEED) == self.members[0].axes.get(SEED)

    def choice(self) -> RateChoice:
        """What the finished trials say."""
        losses = {
            member.axes[RATE]: _val_loss(member)
            for member in self.members
            if RATE in member.axes and self.is_trial(member)
        }
        if len(losses) == 1:
            # Nothing to choose: the further seeds need not wait.
            return RateChoice(self.name, losses, next(iter(losses)))
        known = {rate: loss for rate, loss in losses.items() if loss is not None}
        chosen = min(known, key=lambda rate: known[rate]) if known and len(known) == len(losses) else None
        return RateChoice(self.name, losses, chosen)


def _groups(sweep: SweepSettings, members: Sequence[Member]) -> list[_Group]:
    varied = RATE in sweep.vary
    groups: dict[str, list[Member]] = {}
    for member in members:
        name = f"{method_of(member)}, {RATE}={member.axes[RATE]}" if varied else method_of(member)
        groups.setdefault(name, []).append(member)
    return [_Group(name, tuple(own)) for name, own in groups.items()]


def _val_loss(member: Member) -> float | None:
    run = RunFolder(member.run)
    if not run.is_finished:
        return None
    loss: Any = run.read(run.summary).get("val_loss_best")
    if loss is None:
        raise TriageError(
            f"{run.folder} has no validation loss, by which its learning rate would be chosen: its data has no validation "
            "split. Prepare it with one, or leave learning_rates out of the sweep."
        )
    # A rate that is too high for anything to be learnt is still a finished trial.
    return float(loss) if math.isfinite(float(loss)) else math.inf
