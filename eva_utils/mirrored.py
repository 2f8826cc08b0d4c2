"""A network that looks at an image from both sides."""

from torch import Tensor, nn

from eva_utils.checks import instance


class Mirrored(nn.Module):
    """A network that looks at each image and at its mirror image, and says the mean of the two logits.

    This is test-time augmentation, by the horizontal flip alone.
    A mirrored cat is a cat, and a network trained with a horizontal flip has learned both; but it does not say the same
    of both, and the mean is right more often (two views of the ten that Krizhevsky et al. 2012 averaged). Parameters
    and weights are those of ``network``, the multiply-adds are twice as many. It maps (N, 3, H, W) to logits
    (N, num_classes) in both modes, so that it can be tested, asked as a teacher, or trained at twice the cost.

        predictions = eva.predict(eva.Mirrored(eva.load_pretrained("residual_net")), test_loader)

    For table, receptive field and heat maps ask ``network``: here its layers run twice, and are counted twice.
    Raises ValueError for what is no network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        instance("network", network, nn.Module, "a network, such as load_pretrained gives")
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, num_classes) of images (N, 3, H, W)."""
        return (self.network(x) + self.network(x.flip(-1))) / 2
