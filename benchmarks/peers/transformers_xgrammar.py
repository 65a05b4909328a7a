"""transformers' `generate` under xgrammar's mask, the whole prompt computed for every ticket."""

from transformers_batches import main

if __name__ == "__main__":
    main(constrained=True, shared_prefix=False)
