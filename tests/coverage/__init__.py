"""One healthy pipeline of each kind that people train, and which checks reach a verdict on it."""
