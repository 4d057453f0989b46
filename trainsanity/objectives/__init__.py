"""The loss of a pipeline, one module per family of objectives."""
