"""Decoding: the schema compiled to a grammar over tokens, and a batched decoder that cannot leave it.

Nothing heavy is imported here; import the module you need, e.g. `from triagekit.decoding.decoder import BatchedDecoder`.
"""
