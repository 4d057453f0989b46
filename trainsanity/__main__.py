"""``python -m trainsanity``."""

from trainsanity.cli.main import main

main()
