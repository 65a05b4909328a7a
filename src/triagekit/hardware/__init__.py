"""What hardware there is, what a run needs of it, and the ladder of set-ups from two large cards down to a CPU.

Nothing here imports torch: plans are made on login nodes and laptops.
"""
