"""triagekit: fine-tune small language models for support-ticket triage, and score archives with them."""

__version__ = "0.1.0"
