"""What a training measured, epoch by epoch, and what a learning-rate range test did."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from eva_utils.checkpoint import save_json

HEADER = "epoch  train loss      acc  test loss      acc         lr  seconds  images/s"


class Evaluation(NamedTuple):
    """Mean loss over all images, and the share that is predicted right (0 to 1)."""

    loss: float
    acc: float


@dataclass(frozen=True)
class History:
    """What a training measured: lists of one value an epoch.

    Losses are means over images in nats, accuracies 0 to 1, ``lr`` the first parameter group's learning
    rate of the epoch's last step, ``seconds`` the whole epoch's and ``images_per_second`` the training
    pass's alone. The training values are those of the augmented images, seen while the weights moved. ``run`` says in
    words what was trained on what and how.
    """

    train_loss: list[float] = field(default_factory=list)
    train_acc: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_acc: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    images_per_second: list[float] = field(default_factory=list)
    run: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.train_loss)

    def __repr__(self) -> str:
        last = f", last test accuracy {self.test_acc[-1]:.2%}" if len(self) else ""
        return f"History({len(self)} epochs{last})"

    def line(self, epoch: int) -> str:
        """Return the line that ``fit`` prints for ``epoch`` (from 0)."""
        return (
            f"{epoch + 1:5d}  {self.train_loss[epoch]:10.4f}  {self.train_acc[epoch]:7.2%}"
            f"  {self.test_loss[epoch]:9.4f}  {self.test_acc[epoch]:7.2%}  {self.lr[epoch]:9.2e}"
            f"  {self.seconds[epoch]:7.1f}  {self.images_per_second[epoch]:8,.0f}"
        )

    def append(
        self, train: Evaluation, test: Evaluation, *, lr: float, seconds: float, images_per_second: float
    ) -> None:
        """Add the values of one more epoch."""
        row = (train.loss, train.acc, test.loss, test.acc, lr, seconds, images_per_second)
        for name, value in zip(LISTS, row, strict=True):
            getattr(self, name).append(value)

    def save(self, path: str | Path) -> None:
        """Write the history to a JSON file."""
        save_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "History":
        """Return the history that :meth:`save` wrote. Raises ValueError if the file holds none."""
        try:
            return cls.from_lists(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:  # also what the two decoders raise
            raise ValueError(f"{str(path)!r} is no history ({error})") from error

    @classmethod
    def from_lists(cls, lists: dict[str, Any]) -> "History":
        """Return the history of these lists, and ``run`` if it is among them.

        Raises ValueError for other names or unequal lengths.
        """
        if not isinstance(lists, dict) or sorted({*lists} - {"run"}) != sorted(LISTS):
            raise ValueError(f"expected the lists {', '.join(LISTS)}, not {lists!r:.80}")
        for name in LISTS:
            if not isinstance(lists[name], list) or not all(isinstance(value, int | float) for value in lists[name]):
                raise ValueError(f"{name} is {lists[name]!r:.40}: expected a list of numbers")
        if not isinstance(lists.get("run", {}), dict):
            raise ValueError(f"run is {lists['run']!r:.40}: expected words by name")
        if len({len(lists[name]) for name in LISTS}) != 1:
            raise ValueError("the lists of a history have one value an epoch: these differ in length")
        return cls(**{name: list(lists[name]) for name in LISTS}, run=dict(lists.get("run", {})))


LISTS = [f.name for f in fields(History) if f.name != "run"]


@dataclass(frozen=True)
class LrRange:
    """The smoothed training loss at each learning rate, both (steps,), in the order of the steps.

    Raises ValueError for none, or for unequal numbers of them.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.lrs) == len(self.losses):
            raise ValueError(f"{len(self.lrs)} lrs, {len(self.losses)} losses: expected one or more, as many of each")

    @property
    def lowest(self) -> float:
        """The learning rate at which the loss was lowest; above it the training begins to diverge.

        Where it is the last of :attr:`lrs`, the loss was still falling there: test a wider range.
        """
        return self.lrs[self.losses.index(min(self.losses))]

    @property
    def suggestion(self) -> float:
        """A tenth of :attr:`lowest`, to begin with as the highest rate of a schedule."""
        return self.lowest / 10
