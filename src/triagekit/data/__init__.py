"""Sources, cleaning, duplicates, splits, manifests: from an export to a split that can be trusted."""
