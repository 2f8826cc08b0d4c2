import math

import pytest
import torch
from torch import nn
from torchvision.ops import SqueezeExcitation

import eva_utils as eva
from eva_utils.models.gated_mirror_net import ChannelNorm, ChannelScale, MishGate
from eva_utils.models.mirror_net import BothHalves, MirrorConv2d, MirrorDepthwise, MirrorNet


def of_the_mirror_image(maps):
    """Return what layers of mirror convolutions should make of the mirror images."""
    first, second = maps.flip(3).chunk(2, dim=1)
    return torch.cat([second, first], dim=1)


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"dilation": 2}, {"stride": 2}, {"stride": 2, "dilation": 2}, {"kernel_size": 1}),
        *({"kernel_size": 1, "stride": 2}, {"kernel_size": 5}, {"kernel_size": 5, "stride": 2, "dilation": 3}),
    ],
)
@pytest.mark.parametrize("shape", [(10, 16), (9, 13)])
def test_a_mirror_convolution_says_the_mirrored_of_the_mirror_image(options, shape):
    first, second = MirrorConv2d(3, 8, of_image=True, **options), MirrorConv2d(8, 12, **options)
    size = options.get("kernel_size", 3)
    assert first.weight.shape == (4, 3, size, size)
    assert second.weight.shape == (6, 8, size, size)
    images = torch.randn(2, 3, *shape)
    maps = first(images)
    assert maps.shape == (2, 8, *(math.ceil(side / options.get("stride", 1)) for side in shape))
    torch.testing.assert_close(first(images.flip(3)), of_the_mirror_image(maps))
    torch.testing.assert_close(second(of_the_mirror_image(maps)), of_the_mirror_image(second(maps)))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_mirror_convolution_is_an_ordinary_one_of_an_image_and_of_its_mirror_image(stride):
    mirror, ordinary = MirrorConv2d(4, 6, stride=stride), nn.Conv2d(4, 3, 3, stride, 1, bias=False)
    ordinary.load_state_dict(mirror.state_dict())
    maps = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(mirror(maps)[:, :3], ordinary(maps))
    torch.testing.assert_close(mirror(maps)[:, 3:], ordinary(of_the_mirror_image(maps)).flip(3))


def test_the_blocks_say_the_mirrored_of_the_mirror_image():
    maps = torch.randn(2, 8, 6, 10)
    halves = BothHalves(nn.BatchNorm2d(4), SqueezeExcitation(4, 2))
    blocks = (
        eva.mirror_convs(8, dilation=2),
        eva.mirror_separable(8),
        eva.GatedMirror(8),
        eva.GatedMirror(8, dilation=3),
    )
    for layer in (
        MirrorDepthwise(8, 5),
        MirrorDepthwise(8, 7, dilation=3),
        BothHalves(ChannelNorm(4)),
        BothHalves(MishGate()),
        halves,
        *blocks,
    ):
        assert not torch.allclose(layer(maps.flip(3)), layer(maps), atol=1e-3)
        torch.testing.assert_close(layer(of_the_mirror_image(maps)), of_the_mirror_image(layer(maps)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_both_halves_are_treated_as_more_places(memory_format):
    maps = torch.randn(3, 8, 6, 5).contiguous(memory_format=memory_format)
    norm = nn.BatchNorm2d(4)
    expected = torch.cat(norm(torch.cat(maps.chunk(2, dim=1))).chunk(2), dim=1)  # as if they were images of their own
    torch.testing.assert_close(BothHalves(norm)(maps), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_layers_of_a_gated_block_compute_what_they_say(memory_format):
    maps = torch.randn(3, 8, 6, 5).contiguous(memory_format=memory_format)
    norm, scale = ChannelNorm(8), ChannelScale(8)
    for parameter in (*norm.parameters(), *scale.parameters()):
        nn.init.normal_(parameter)
    flat = maps.flatten(2).mT
    of_norm = nn.functional.layer_norm(flat, (8,), norm.weight, norm.bias).mT.unflatten(2, (6, 5))
    torch.testing.assert_close(norm(maps), of_norm)
    torch.testing.assert_close(scale(maps), torch.einsum("nchw,c->nchw", maps, scale.weight.flatten()))
    torch.testing.assert_close(MishGate()(maps), nn.functional.mish(maps[:, :4]) * maps[:, 4:])


def test_a_gated_block_begins_beside_a_whole_shortcut():
    block, maps = eva.GatedMirror(8), torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(maps), maps + block.body(maps))
    with torch.no_grad():
        block.shortcut[0].weight.copy_(torch.tensor([0.0, 1, 2, 3])[:, None, None])
    shares = torch.tensor([0.0, 1, 2, 3, 0, 1, 2, 3])[:, None, None]
    torch.testing.assert_close(block(maps), maps * shares + block.body(maps))


def test_an_image_and_its_mirror_image_have_the_same_logits():
    first = eva.mirror_norm_relu(3, 8, of_image=True), eva.mirror_convs(8), eva.mirror_norm_relu(8, 12, stride=2)
    model = MirrorNet(*first, eva.mirror_separable(12), channels=12, num_classes=7)
    images = torch.randn(8, 3, 12, 16)
    model(images)  # statistics of their own
    model.eval()
    assert model(images).shape == (8, 7)
    assert not torch.allclose(model(images.flip(2)), model(images), atol=1e-3)
    torch.testing.assert_close(model(images.flip(3)), model(images))


def test_a_start_at_the_identity_hands_both_halves_on():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), MirrorConv2d(4, 4), MirrorDepthwise(4))
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    eva.start_at_identity(layers)
    maps = torch.randn(2, 4, 6, 6)
    assert torch.equal(layers[1:](maps), maps)


def test_what_has_no_halves_is_refused():
    with pytest.raises(
        ValueError, match="in_channels=3: expected two halves; for the colours of an image: of_image=True"
    ):
        MirrorConv2d(3, 8)
    for of_image in (False, True):
        with pytest.raises(ValueError, match="out_channels=7: its channels come in halves"):
            MirrorConv2d(4 - of_image, 7, of_image=of_image)
    for arguments in ((5,), (4, 2)):
        with pytest.raises(ValueError, match="expected two halves and an odd size"):
            MirrorDepthwise(*arguments)
    with pytest.raises(ValueError, match="expected two halves"):
        eva.GatedMirror(5)
    with pytest.raises(ValueError, match="a map of 3 channels has no halves"):
        BothHalves(nn.ReLU())(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="a map of 5 channels has no halves"):
        MishGate()(torch.zeros(1, 5, 4, 4))
    with pytest.raises(ValueError, match="channels=7: they come in halves, choose an even number"):
        MirrorNet(MirrorConv2d(3, 8, of_image=True), channels=7, num_classes=10)
    for options in ({"kernel_size": 2}, {"stride": 3}):
        with pytest.raises(ValueError, match="expected an odd size and a stride of 1 or 2"):
            MirrorConv2d(4, 8, **options)
