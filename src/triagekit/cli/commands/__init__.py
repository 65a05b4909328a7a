"""One module a command. Each has `configure(parser)` and `run(arguments) -> exit code`, and imports nothing heavy at the top."""
