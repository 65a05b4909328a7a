"""Fine-tuning on TRL and accelerate: examples → loss → trainer → checkpoints → one run folder.

Importing this package is light; torch and its friends are imported when a run really starts.
"""
