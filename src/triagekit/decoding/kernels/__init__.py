"""Loops that a CPU runs much faster in machine code: C++ sources, compiled on the machine that runs them."""
