"""150 attacks on the promises; ``list.md`` says what each is, ``python -m tests.attacks`` tries."""
