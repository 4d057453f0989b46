"""What the loss of a pipeline is, one module per family of objectives."""
