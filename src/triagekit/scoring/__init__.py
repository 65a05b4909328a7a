"""Scoring: tickets to predictions with a trained adapter, and the archive job on Ray.

Nothing heavy is imported here; import the module you need, e.g. `from triagekit.scoring.predictor import Predictor`.
"""
