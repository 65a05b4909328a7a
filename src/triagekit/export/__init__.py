"""Runs in the forms that other programs and other people take: merged, as PEFT's folder, packed, as GGUF, on a hub."""
