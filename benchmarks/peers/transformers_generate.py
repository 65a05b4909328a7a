"""transformers' `generate` without a constraint: what it writes need not be a record."""

from transformers_batches import main

if __name__ == "__main__":
    main(constrained=False, shared_prefix=False)
