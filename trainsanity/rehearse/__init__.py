"""What a run will meet: the longest batches, a checkpoint, an evaluation, and its hours."""
