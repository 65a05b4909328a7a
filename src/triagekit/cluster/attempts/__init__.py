"""The attempts of one run: each start of its job, how it ended, and how the next one comes about."""
