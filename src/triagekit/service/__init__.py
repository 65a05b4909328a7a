"""A run behind HTTP: tickets in, records out, gathered into batches for the scorer's own decoder."""
