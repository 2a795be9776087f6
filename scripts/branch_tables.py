"""The tables of branches in docs/files.md, made from the code that writes them.

`python scripts/branch_tables.py` writes them anew between their marks; tests/test_docs.py checks
that they are as they would be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from controllers.writer import branches
from controllers.writer.branches import Branch

DOC = Path(__file__).resolve().parents[1] / "docs" / "files.md"
BEGIN, END = "<!-- made by scripts/branch_tables.py: begin -->", "<!-- end -->"

LEAF = {"u1": "b", "u2": "s", "u4": "i", "u8": "l", "i4": "I", "i8": "L", "f4": "F", "f8": "D"}
"""ROOT's leaf code of each numpy type."""
TITLES = {
    "events": "one row per event, in the order of (slice, t0)",
    "hits": 'hits that are in no event; with `hits = "all"` every hit',
    "pulses": "every pulse",
    "slices": "one row per slice",
    "ledger": "one row per slice and source",
    "run": "one row per file",
}


def tables() -> str:
    """All trees as Markdown."""
    out = []
    for tree, title in TITLES.items():
        out += [
            f"### `{tree}`: {title}",
            "",
            "| branch | type | unit | meaning | from |",
            "|---|---|---|---|---|",
        ]
        out += [_row(b) for b in (branches.EVENTS if tree == "events" else branches.FLAT[tree])]
        if tree == "events":
            for group, fields in branches.GROUPS.items():
                out += _group(group, fields)
        out.append("")
    return "\n".join(out)


def _group(group: str, fields: Sequence[Branch]) -> list[str]:
    """A counter and the arrays it counts."""
    counter = Branch(f"n_{group}", "i4", "", f"number of {group}_* in this event")
    return [_row(counter), *(_row(b, f"{group}_", f"[n_{group}]") for b in fields)]


def _row(b: Branch, before: str = "", length: str = "") -> str:
    meaning = b.meaning.replace("|", "\\|")
    cells = f"`{before}{b.name}`", f"{LEAF[b.type]}{length}", b.unit, meaning, b.origin
    return "| " + " | ".join(cells) + " |"


def between(text: str) -> tuple[int, int]:
    """Where the tables stand in the document."""
    return text.index(BEGIN) + len(BEGIN), text.index(END)


def main() -> None:
    text = DOC.read_text("utf-8")
    begin, end = between(text)
    DOC.write_text(f"{text[:begin]}\n\n{tables()}\n{text[end:]}", "utf-8")


if __name__ == "__main__":
    main()
