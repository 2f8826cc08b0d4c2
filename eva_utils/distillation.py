"""Training a small network on what a larger one says, in place of the labels."""

import zlib

import torch
from torch import Tensor, nn

from eva_utils.checks import instance, real_number
from eva_utils.predictions import eval_mode


class Distillation:
    """A teacher's probabilities in place of labels (Hinton, Vinyals & Dean 2015).

    The labels of an image say one class; a trained teacher says besides how much of each other class it sees, and sees
    the very crop and hole that the student is shown (Beyer et al. 2022, "A good teacher is patient and consistent").
    ``temperature`` divides the logits of both: the higher, the more the smaller probabilities count.

        distillation = eva.Distillation(teacher)
        eva.fit(student, ..., batch_transform=distillation, loss_fn=distillation.loss)

    Both belong together. The history's training accuracy is then the share of images on which student and teacher
    agree, and its training loss temperature squared times a cross entropy.

    The teacher is taken in eval mode and without gradients, and moves to the device of the images, where it stays; its
    weights stay as they are. Raises ValueError for a temperature of 0 or less and for a teacher that is no network.
    """

    def __init__(self, teacher: nn.Module, *, temperature: float = 4.0) -> None:
        instance("teacher", teacher, nn.Module, "a trained network, such as load_pretrained gives")
        self.temperature = real_number("temperature", temperature, least=0)
        if self.temperature == 0:
            raise ValueError("temperature=0: expected more than 0, such as 4; 1 leaves the probabilities as they are")
        self._teacher = teacher

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images (B, 3, H, W) as they are, and the teacher's probabilities, float32 (B, classes)."""
        self._teacher.to(images.device)
        with torch.no_grad(), eval_mode(self._teacher):
            logits = self._teacher(images).float()
        return images, (logits / self.temperature).softmax(dim=1)

    def loss(self, logits: Tensor, probs: Tensor) -> Tensor:
        """Return the cross entropy of the student's probabilities against the teacher's, times temperature squared.

        The factor keeps the size of the gradients, whatever the temperature. Raises ValueError for labels, which come
        where the distillation is not the ``batch_transform`` as well.
        """
        if not probs.is_floating_point() or probs.shape != logits.shape:
            raise ValueError(
                f"distillation.loss of targets {probs.dtype} {tuple(probs.shape)}: expected the teacher's "
                f"probabilities {tuple(logits.shape)}; hand the distillation in as batch_transform= too"
            )
        return self.temperature**2 * nn.functional.cross_entropy(logits / self.temperature, probs)

    def __repr__(self) -> str:
        return f"Distillation({identify(self._teacher)}, {self.temperature:g})"


def identify(model: nn.Module) -> str:
    """Return the class of a network and the CRC-32 of its weights and buffers, in hexadecimal."""
    crc = 0
    for value in model.state_dict().values():
        if torch.is_tensor(value):
            crc = zlib.crc32(value.detach().cpu().double().numpy().tobytes(), crc)
    return f"{type(model).__name__} of weights {crc:08x}"
