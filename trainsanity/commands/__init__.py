"""One module per command, loaded when it is called; ``base.py`` and ``output.py`` are shared."""
