"""Builds the embedded base model: tokenizer, pre-training on made-up taxonomies, export, checks."""
