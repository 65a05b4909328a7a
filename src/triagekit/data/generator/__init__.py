"""Made-up help-desk tickets with known records: for demos, tests, and the pre-training of the embedded base."""

from triagekit.data.generator.tickets import generate_tickets

__all__ = ["generate_tickets"]
