"""Run checks on a pipeline: the registry, the session, the runner and the report."""
