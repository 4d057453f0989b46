"""The reporters: text, HTML, GitHub and JSON, and the pages of checks."""
