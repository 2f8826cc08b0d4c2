"""A teacher's answers to a number of augmented copies of the training images, asked once for all students.

A teacher that answers during a student's training costs as much as the student. Here it is asked about ``copies``
augmented copies of all images, and its logits are kept in a folder: one file a copy, float16 (N, classes). The images
are not kept, they come out the same whenever they are drawn again. Epoch e of each student shows copy ``first`` +
(e modulo ``copies``), in an order of its seed's (after Faghri et al. 2023, "Reinforce Data, Multiply Impact"). With
``mirror`` every other pass through the copies shows them mirrored, under the same answers: twice as many images for
nothing. A student that goes on from weights which have seen the copies 0 to 23 sees others from ``first=24`` on.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import albumentations as A
import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

import eva_utils as eva
from eva_utils.checkpoint import save_json, written_whole
from eva_utils.distillation import identify
from eva_utils.loaders import DeviceLoader
from eva_utils.runtime import autocast, best_precision

DRAWS = 0  # the seed of the copies' augmentations


class Taught(DeviceLoader):
    """Batches as those of the fast loader, of augmented copies that the teacher in ``folder`` has answered.

    What is not answered yet is asked when it is needed, once, whichever of several processes comes first. Raises
    ValueError for a folder of another teacher's answers, or of answers to other images.
    """

    def __init__(
        self,
        image_set: eva.ImageSet,
        policy: A.Compose,
        batch_size: int,
        *,
        seed: int,
        teacher: nn.Module,
        copies: int,
        first: int = 0,
        folder: Path,
        mirror: bool = False,
    ) -> None:
        super().__init__(image_set, policy, batch_size, shuffle=True, seed=seed, device=eva.best_device())
        self.teacher, self.folder = teacher.to(self.device).eval(), folder
        self.copies, self.first, self.mirror = copies, first, mirror
        self.logits = torch.empty(0, len(image_set.classes))  # of the latest batch
        settings = {
            "teacher": identify(teacher),
            "images": f"{image_set!r}, checksum {image_set.checksum}",
            "policy": " ".join(str(policy).split()),
        }
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            path = folder / "settings.json"
            if not path.exists():
                save_json(path, settings)
            found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            what = " and ".join(name for name in settings if found.get(name) != settings[name])
            raise ValueError(f"{folder} holds answers of another {what}: name another folder, or delete it")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batches of the next pass; ``logits`` are the teacher's of the batch that was given last."""
        epoch, order = self.sampler.next_pass()
        number = self.first + epoch % self.copies
        answers = torch.from_numpy(self.answers(number)).to(self.device)
        drawn = self._policy.draw(len(self.dataset), seed=DRAWS, epoch=number)
        mirrored = self.mirror and epoch // self.copies % 2 == 1
        for samples, images, labels in self._batches(order, drawn):
            self.logits = answers.index_select(0, samples).float()
            yield (images.flip(3) if mirrored else images), labels

    def answers(self, number: int) -> np.ndarray:
        """Return the teacher's logits of a copy, float16 (N, classes), asking it where nobody has yet."""
        path = self.folder / f"{number:03}.npy"
        with FileLock(self.folder / f"{number:03}.lock"):
            if not path.exists():
                logits = self._ask(number)
                with written_whole(path) as file:
                    np.save(file, logits)
        return np.load(path)

    @torch.inference_mode()
    def _ask(self, number: int) -> np.ndarray:
        drawn = self._policy.draw(len(self.dataset), seed=DRAWS, epoch=number)
        logits = []
        for _, images, _ in self._batches(np.arange(len(self.dataset)), drawn):
            with autocast(self.device, best_precision(self.device)):
                logits.append(self.teacher(images.contiguous(memory_format=torch.channels_last)).half())
        return torch.cat(logits).cpu().numpy()


class Answered(eva.Distillation):
    """The distillation of a teacher whose answers the loader brings with its batches.

    ``corrected``: where the teacher's first choice is not the label, the logits of the two are exchanged (after Wen et
    al. 2019, "Preparing Lessons: Improve Knowledge Distillation with Better Supervision"). The history's training
    accuracy is then that by the labels.
    """

    def __init__(self, loader: Taught, *, temperature: float, corrected: bool = False) -> None:
        super().__init__(loader.teacher, temperature=temperature)
        self._loader, self._corrected = loader, corrected

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images of the loader's latest batch and the teacher's probabilities for them."""
        logits = self._loader.logits
        if self._corrected:
            highest, first = logits.max(dim=1, keepdim=True)
            right = labels[:, None]
            logits = logits.scatter(1, first, logits.gather(1, right)).scatter(1, right, highest)
        return images, (logits / self.temperature).softmax(dim=1)

    def __repr__(self) -> str:
        later = f", the first of them number {self._loader.first}" if self._loader.first else ""
        mirrored = ", mirrored in every other pass" if self._loader.mirror else ""
        corrected = ", corrected by the labels" if self._corrected else ""
        return f"{super().__repr__()} on {self._loader.copies} augmented copies{later}{mirrored}{corrected}"
