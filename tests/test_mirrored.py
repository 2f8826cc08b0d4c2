import pytest
import torch

import eva_utils as eva


def test_the_answer_is_the_mean_over_an_image_and_its_mirror_image():
    network = eva.build_network("small_residual_net").eval()
    mirrored = eva.Mirrored(network)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        logits = mirrored(images)
        torch.testing.assert_close(logits, (network(images) + network(images.flip(3))) / 2, rtol=0, atol=0)
        torch.testing.assert_close(mirrored(images.flip(3)), logits)
        assert (network(images.flip(3)) - network(images)).abs().max() > 1e-3


def test_parameters_are_the_networks_and_each_takes_part_in_training():
    network = eva.build_network("residual_net")
    mirrored = eva.Mirrored(network)
    assert sum(p.numel() for p in mirrored.parameters()) == 191_264
    mirrored(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(("name", "tier"), [("residual_net", "standard"), ("small_residual_net", "bonus")])
def test_a_mirrored_network_meets_the_clauses_that_its_network_meets(name, tier):
    network = eva.build_network(name)
    policy = eva.course_policy(affine=0.5, dropout=0.5, grey=0.05)
    plain, both = (eva.check_assignment(model, 0.9, policy, tier) for model in (network, eva.Mirrored(network)))
    assert plain.passed
    assert both.passed
    assert eva.receptive_field(eva.Mirrored(network)).before_pooling == eva.receptive_field(network).before_pooling


def test_what_is_no_network_is_refused():
    with pytest.raises(ValueError, match="network is a str"):
        eva.Mirrored("residual_net")
