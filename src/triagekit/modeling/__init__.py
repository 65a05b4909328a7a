"""Base models, adapters and tokens: what training and scoring share.

Settings (`settings`) import nothing heavy; torch, transformers and peft are imported inside the functions that use them.
"""
