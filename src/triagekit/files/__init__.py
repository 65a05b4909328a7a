"""Plain files: atomic writes, content fingerprints, YAML with line numbers, and the files that ship with the package."""
