"""The pixels that the units of a map see, on one axis of the image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Axis:
    """The first and the last pixel, on one axis, that each unit depends on.

    They repeat: after ``len(first)`` units both move on by ``step`` pixels, which is negative behind a flip.
    More than one unit is needed behind an upsampling, where neighbours see fields of different sizes; a unit that
    depends on nothing has (inf, -inf).
    """

    first: tuple[float, ...] = (0,)
    last: tuple[float, ...] = (0,)
    step: int = 1

    def size(self, units: int) -> int:
        """Return the receptive field of that of the first ``units`` units that sees most, in pixels."""
        pairs = list(zip(self.first, self.last, strict=True))[:units]
        return int(max(0, *(last - first + 1 for first, last in pairs)))

    @property
    def jump(self) -> float:
        """The distance of neighbouring units in pixels of the image, on the average."""
        return self.step / len(self.first)

    @property
    def start(self) -> float:
        """The centre of the first unit's field; that of the first pixel is 0."""
        return (self.first[0] + self.last[0]) / 2

    def field_of(self, unit: int) -> tuple[float, float]:
        """Return the first and the last pixel that a unit depends on."""
        turns, phase = divmod(unit, len(self.first))
        return self.first[phase] + turns * self.step, self.last[phase] + turns * self.step

    def gather(self, reads: Sequence[Sequence[int]], shift: int) -> "Axis":
        """Return the axis of units that read units of this one.

        Unit 0 reads the units ``reads[0]``, unit 1 ``reads[1]`` and so on; after ``len(reads)`` units the same
        happens ``shift`` units further on.
        """
        period = len(self.first)
        turns = period // math.gcd(period, shift)
        fields = [
            [self.field_of(unit + turn * shift) for unit in units] or [(math.inf, -math.inf)]
            for turn in range(turns)
            for units in reads
        ]
        first = tuple(min(low for low, _ in field) for field in fields)
        last = tuple(max(high for _, high in field) for field in fields)
        return Axis(first, last, turns * shift * self.step // period)._shortest()

    def flipped(self, units: int) -> "Axis":
        """Return the axis of the same ``units`` units from the last to the first."""
        fields = [self.field_of(units - 1 - unit) for unit in range(len(self.first))]
        return Axis(tuple(low for low, _ in fields), tuple(high for _, high in fields), -self.step)

    def still(self) -> "Axis":
        """Return the axis of units that all see what the first unit sees."""
        return Axis(self.first[:1], self.last[:1], 0)

    def join(self, other: "Axis") -> "Axis":
        """Return the axis of units that depend on what either of two units depends on."""
        period = math.lcm(len(self.first), len(other.first))
        if Fraction(self.step, len(self.first)) != Fraction(other.step, len(other.first)):
            raise ValueError(f"the units of the paths lie {self.jump:g} and {other.jump:g} pixels apart")
        fields = [(self.field_of(unit), other.field_of(unit)) for unit in range(period)]
        first = tuple(min(a[0], b[0]) for a, b in fields)
        last = tuple(max(a[1], b[1]) for a, b in fields)
        return Axis(first, last, self.step * period // len(self.first))._shortest()

    def _shortest(self) -> "Axis":
        """Return the same axis with its shortest period."""
        period = len(self.first)
        for count in range(1, period):
            if period % count == 0 and self.step * count % period == 0:
                short = Axis(self.first[:count], self.last[:count], self.step * count // period)
                if all(short.field_of(unit) == self.field_of(unit) for unit in range(period)):
                    return short
        return self
