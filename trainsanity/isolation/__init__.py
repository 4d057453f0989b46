"""Nothing is touched: snapshots, fingerprints, time limits, temporary folders."""
