"""Where a pipeline comes from: a factory, a script, or the user's pyproject.toml."""
