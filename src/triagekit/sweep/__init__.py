"""Runs that differ in a few settings: which there are, how a learning rate is chosen, and running them on this machine."""
