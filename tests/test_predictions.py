import pytest
import torch
from torch import nn

from eva_utils.loaders import make_loader
from eva_utils.models import build_network
from eva_utils.predictions import Predictions, predict
from eva_utils.transforms import eval_policy

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [4.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 0, 1, 1])


def test_everything_follows_from_the_logits():
    predictions = Predictions(LOGITS, LABELS)
    assert predictions.preds.tolist() == [0, 1, 0, 1]
    assert predictions.accuracy == 0.5
    assert predictions.mistakes().tolist() == [2, 1]  # the worst first
    assert predictions.loss == pytest.approx(nn.functional.cross_entropy(LOGITS, LABELS).item())
    assert torch.allclose(predictions.probs.sum(1), torch.ones(4))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (LOGITS[:, 0], LABELS, r"logits \(4,\) and labels \(4,\): expected \(N, classes\)"),
        (LOGITS, LABELS[:3], r"logits \(4, 3\) and labels \(3,\)"),
        (LOGITS[:0], LABELS[:0], r"N at least 1"),
        (LOGITS, LABELS + 2, r"labels go from 2 to 3, but the network has 3 outputs: expected labels 0 to 2"),
        (LOGITS, LABELS - 1, r"labels go from -1 to 0"),
    ],
)
def test_what_does_not_fit_is_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        Predictions(logits, labels)


def test_predict_keeps_the_order_and_the_modes(shapes):
    model = build_network("dilated_net").train()
    model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    loader = make_loader(shapes, eval_policy(), batch_size=7, workers=0)  # 60 images: the last batch has 4
    predictions = predict(model, loader)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert predictions.labels.tolist() == shapes.labels.tolist()
    images = torch.cat([images for images, _ in loader])
    with torch.no_grad():
        assert torch.allclose(predictions.logits, model.eval()(images), atol=1e-5)


def test_a_failing_model_is_put_back_into_its_mode(shapes):
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    with pytest.raises(RuntimeError, match="channels"):
        predict(model, make_loader(shapes, eval_policy(), batch_size=7, workers=0))
    assert model[1].training


def test_a_loader_without_batches_is_refused():
    with pytest.raises(ValueError, match="the loader gives no batches"):
        predict(build_network("dilated_net"), [])
