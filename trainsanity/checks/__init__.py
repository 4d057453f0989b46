"""The built-in checks, ``<stage>/<invariant>.py`` each; a check's docstring is its page."""
