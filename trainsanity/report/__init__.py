"""The faces of a report: text for people, JSON for machines."""
