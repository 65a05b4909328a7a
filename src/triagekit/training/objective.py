"""What is minimised: cross entropy, on the tokens of label values optionally smoothed and focal."""

from __future__ import annotations

from collections.abc import Collection

import torch

from triagekit.training.loss import TokenLosses
from triagekit.training.settings import LossSettings


class Objective:
    """The loss of a batch by its settings; `label_fields`: indices of the schema's fields with labels.

    With cross entropy ℓ = −log p of a value token, mean −log p over the vocabulary u, smoothing ε and focal γ:
    ((1 − ε)·ℓ + ε·u)·(1 − p)^γ.
    """

    def __init__(self, settings: LossSettings, label_fields: Collection[int]) -> None:
        self._settings = settings
        self._label_fields = torch.tensor(sorted(label_fields))

    @property
    def over_vocabulary(self) -> bool:
        """Whether it needs the mean over the whole vocabulary."""
        return self._settings.label_smoothing > 0

    def weighted_sum(self, losses: TokenLosses) -> torch.Tensor:
        """Numerator of the loss, a scalar in nats; the denominator is `loss.normaliser`."""
        if self._settings.is_plain or losses.fields is None:
            return losses.weighted_sum
        is_label = torch.isin(losses.fields, self._label_fields.to(losses.fields.device))
        return losses.sum_of(torch.where(is_label, self._of_label(losses), losses.negative_log_likelihood))

    def _of_label(self, losses: TokenLosses) -> torch.Tensor:
        likelihood = losses.negative_log_likelihood
        smoothing, gamma = self._settings.label_smoothing, self._settings.focal_gamma
        each = likelihood
        if losses.of_vocabulary is not None:
            each = (1 - smoothing) * likelihood + smoothing * losses.of_vocabulary
        if gamma:
            # 1 − p from its logarithm's own form: exact where p is nearly 1, and of finite slope at p = 1.
            missing = -torch.expm1(-likelihood)
            each = each * missing.clamp_min(torch.finfo(missing.dtype).tiny) ** gamma
        return each
