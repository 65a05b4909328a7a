"""Rows that begin alike computed as one packed sequence: the shared prefix once, no padding, the same loss and gradient."""
