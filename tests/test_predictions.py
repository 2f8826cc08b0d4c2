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


def test_confusion_counts_true_classes_in_rows():
    predictions = Predictions(LOGITS, LABELS)
    assert predictions.confusion().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    accuracy = predictions.class_accuracy()
    assert accuracy[:2].tolist() == [0.5, 0.5]
    assert accuracy[2].isnan()  # no image of this class


def test_the_most_confused_pairs_come_first_and_the_diagonal_never():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    preds = torch.tensor([1, 1, 0, 0, 1, 2, 0])
    predictions = Predictions(torch.eye(3)[preds], labels)
    assert predictions.most_confused() == [(0, 1, 2), (1, 0, 1), (2, 0, 1)]
    assert predictions.most_confused(1) == [(0, 1, 2)]


def test_the_least_certain_right_ones_come_first():
    assert Predictions(LOGITS, LABELS).uncertain().tolist() == [3, 0]


def test_the_calibration_error_is_the_weighted_gap():
    probs = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.65, 0.35]])
    predictions = Predictions(probs.log(), torch.tensor([0, 0, 0, 1]))
    calibration = predictions.calibration(10)
    assert calibration.counts.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert calibration.accuracy[[6, 9]].tolist() == [0.5, 1.0]
    assert calibration.confidence[[6, 9]] == pytest.approx([0.65, 0.95])
    assert calibration.error == pytest.approx((2 * 0.15 + 2 * 0.05) / 4)
    with pytest.raises(ValueError, match="bins=0"):
        predictions.calibration(0)


def test_a_certain_network_falls_into_the_last_bin():
    predictions = Predictions(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
    assert predictions.calibration(5).counts.tolist() == [0, 0, 0, 0, 1]
