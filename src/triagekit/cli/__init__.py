"""The `triage` command: arguments in, tables and progress bars out; no logic of its own."""
