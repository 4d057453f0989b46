"""``python -m trainsanity``."""

from .cli import main

main()
