"""Heat maps: which places of an image speak for a class."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eva_utils.measured_field import run_to_map
from eva_utils.predictions import eval_mode
from eva_utils.runtime import device_of


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, *, layer: str | None = None) -> Tensor:
    """Return how much each place of each image speaks for its class: (N, H, W), 0 to 1.

    ``images`` (N, 3, H, W) are normalised, ``classes`` (N,) the class to explain for each. The channels of a layer's
    map are weighted by the mean gradient of the class's logit, summed, cut at 0 and enlarged to the image
    (Grad-CAM, Selvaraju et al. 2017). ``layer`` is a module's name, by default that of the last map before the
    global pooling. A map of zeros means that nothing there speaks for the class. The model stays as it is.
    Raises ValueError without images, for classes that the network does not have or that are not one an image, and for a
    layer that is not there or gives no map.
    """
    if classes.shape != images.shape[:1] or not len(classes):
        raise ValueError(
            f"classes {tuple(classes.shape)} of images {tuple(images.shape)}: expected one class an image, at least one"
        )
    device = device_of(model)
    with eval_mode(model), torch.enable_grad():
        logits, maps = run_to_map(model, images.detach().to(device).clone().requires_grad_(), layer)
    if not 0 <= classes.min() <= classes.max() < logits.shape[1]:
        raise ValueError(f"classes from {classes.min()} to {classes.max()}: expected 0 to {logits.shape[1] - 1}")
    chosen = logits.gather(1, classes.to(device)[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
    heat = (weights * maps).sum(dim=1, keepdim=True).relu().detach()  # (N, 1, h, w)
    heat = F.interpolate(heat, size=images.shape[2:], mode="bilinear")[:, 0]
    return (heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)).cpu()
