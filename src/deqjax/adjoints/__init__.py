"""adjoints."""
