"""One clause of the assignment, judged, and the table of all."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Clause:
    """One clause: what it requires, what was found and where; ``passed`` is None where nothing was given to judge."""

    name: str
    required: str
    found: str
    where: str
    passed: bool | None


@dataclass(frozen=True)
class AssignmentCheck:
    """All clauses of a tier. ``passed`` is False if one is broken, None if one could not be judged, else True."""

    tier: str
    clauses: tuple[Clause, ...]

    @property
    def passed(self) -> bool | None:
        """The verdict over all clauses."""
        verdicts = [clause.passed for clause in self.clauses]
        return False if False in verdicts else None if None in verdicts else True

    def __str__(self) -> str:
        marks = {True: "yes", False: "NO", None: "?"}
        lines = [("clause", "required", "found", "passed", "where")]
        lines += [(c.name, c.required, c.found, marks[c.passed], c.where) for c in self.clauses]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        verdict = {True: "passed", False: "not passed", None: "not passed yet: not all clauses could be judged"}
        return "\n".join([*rows, f"{self.tier} tier: {verdict[self.passed]}"])


def joined(paths: list[str]) -> str:
    """Join the paths of modules, each once."""
    return ", ".join(dict.fromkeys(path or "the network" for path in paths))
