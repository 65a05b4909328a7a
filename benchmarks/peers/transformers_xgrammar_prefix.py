"""transformers' `generate` under xgrammar's mask, the prefix's keys and values computed once."""

from transformers_batches import main

if __name__ == "__main__":
    main(constrained=True, shared_prefix=True)
