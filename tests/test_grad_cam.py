import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from eva_utils.grad_cam import grad_cam
from eva_utils.loaders import make_loader
from eva_utils.models import NETWORKS, build_network
from eva_utils.predictions import predict
from eva_utils.transforms import eval_policy


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("dilated_net", "layers.9.3"),
        ("dilated_separable_net", "layers.12"),
        ("resnet18", "layer4.1"),
        ("mobilenet_v2", "features.17"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of the other package
def test_the_maps_are_those_of_the_grad_cam_package(name, layer):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    known = name in NETWORKS
    model = build_network(name).eval() if known else torchvision.models.get_model(name, weights=None).eval()
    images, classes = torch.randn(4, 3, 32, 32) if known else torch.randn(4, 3, 96, 96), torch.tensor([3, 1, 4, 1])
    with GradCAM(model, [model.get_submodule(layer)]) as oracle:
        expected = oracle(images, [ClassifierOutputTarget(int(label)) for label in classes])
    ours = grad_cam(model, images, classes, layer=layer).numpy()
    spread = ours - ours.min(axis=(1, 2), keepdims=True)  # that package stretches each map from 0 to 1
    spread /= np.maximum(spread.max(axis=(1, 2), keepdims=True), 1e-7)
    np.testing.assert_allclose(spread, expected, atol=2e-3)
    assert ours.max() == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_by_default_the_last_map_speaks_and_the_model_stays(name):
    model = build_network(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    maps = grad_cam(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 9]))
    assert maps.shape == (2, 32, 32)
    assert 0 <= maps.min() <= maps.max() <= 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_speaks_against_the_class_is_dark():
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False)
    )
    nn.init.ones_(model[0].weight)
    model[3].weight.data = torch.tensor([[1.0], [-1.0]])
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 2, 5] = 1
    assert torch.equal(grad_cam(model, image, torch.tensor([0]), layer="0")[0], image[0, 0])
    assert grad_cam(model, image, torch.tensor([1]), layer="0").count_nonzero() == 0


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1024, 4)

    def forward(self, x):
        outputs, _ = self.lstm(x.flatten(2))
        return outputs[:, -1]


def test_what_does_not_fit_is_named():
    model = build_network("dilated_net")
    images = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match=r"classes \(3,\) of images"):
        grad_cam(model, images, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="no layer 'head'"):
        grad_cam(model, images, torch.zeros(2, dtype=torch.int64), layer="head")
    with pytest.raises(ValueError, match="expected one class an image, at least one"):
        grad_cam(model, images[:0], torch.zeros(0, dtype=torch.int64), layer="layers.0")
    with pytest.raises(ValueError, match="'lstm' gives no map of the image: choose another layer"):
        grad_cam(Recurrent(), images, torch.zeros(2, dtype=torch.int64), layer="lstm")


def test_a_layer_whose_output_is_overwritten_is_seen_as_it_was():
    torch.manual_seed(0)

    def build(inplace):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.ReLU(inplace),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(inplace),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )

    plain, inplace = build(False), build(True)
    inplace.load_state_dict(plain.state_dict())
    images, classes = torch.randn(2, 3, 16, 16), torch.tensor([0, 3])
    assert torch.equal(grad_cam(plain, images, classes, layer="2"), grad_cam(inplace, images, classes, layer="2"))
    assert not images.requires_grad


def test_classes_out_of_range_are_named():
    with pytest.raises(ValueError, match="classes from 0 to 10: expected 0 to 9"):
        grad_cam(build_network("dilated_net"), torch.zeros(2, 3, 32, 32), torch.tensor([0, 10]))


def test_the_classes_may_be_the_labels_that_predict_gives(shapes):
    model, loader = build_network("dilated_net"), make_loader(shapes, eval_policy(), batch_size=30, workers=0)
    labels = predict(model, loader).labels
    assert grad_cam(model, next(iter(loader))[0], labels[:30]).shape == (30, 32, 32)
