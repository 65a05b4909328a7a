"""Scoring: the schema compiled to a token grammar, a batched decoder that cannot leave it, and the archive job on Ray.

Nothing heavy is imported here; import the module you need, e.g. `from triagekit.scoring.predictor import Predictor`.
"""
