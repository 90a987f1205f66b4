"""Prints the tables of what was measured, and says what was not."""

from __future__ import annotations

from tests.measured import PARTS, NotMeasured


def main() -> None:
    """Print what `tests.support.diagrams` would put between the markers."""
    for name, part in PARTS.items():
        try:
            text = part()
        except NotMeasured as reason:
            text = str(reason)
        print(f"{name}\n\n{text}\n")


if __name__ == "__main__":
    main()
