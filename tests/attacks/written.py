"""The columns of results in ``list.md``."""

from __future__ import annotations

from pathlib import Path

LIST = Path(__file__).with_name("list.md")


def cells(line: str) -> list[str]:
    """Return the cells of a line of a table; ``\\|`` is no border."""
    inner = line.strip().strip("|").replace("\\|", "\0").split("|")
    return [cell.strip().replace("\0", "\\|") for cell in inner]


def write(number: int, column: int, result: str) -> None:
    """Put a result into a column, counted from 0."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        row = cells(line) if line.startswith(f"| {number} |") else []
        if row:
            row += [""] * (column + 1 - len(row))
            said = result.replace("|", "\\|").replace("`", "'")
            printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in said)
            row[column] = f"broken: {printable[:200]}" if result else "held"
            lines[i] = "| " + " | ".join(row) + " |"
    LIST.write_text("\n".join(lines) + "\n", encoding="utf-8")
