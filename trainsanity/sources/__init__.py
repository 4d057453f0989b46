"""Find and build pipelines: from a factory, a script, or the user's pyproject.toml."""
