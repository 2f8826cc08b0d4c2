import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms import v2

from eva_utils.averaging import MovingAverage
from eva_utils.distillation import Distillation
from eva_utils.history import HEADER
from eva_utils.loaders import make_loader
from eva_utils.models import NETWORKS, build_network, load_pretrained
from eva_utils.optimizers import Muon, muon_groups, one_cycle
from eva_utils.predictions import predict
from eva_utils.records import save_run
from eva_utils.runtime import best_precision, seed_everything
from eva_utils.training import evaluate, fit
from eva_utils.transforms import course_policy, eval_policy

RESULTS = Path(__file__).parent.parent / "results"
RECORDS = [path for path in sorted(RESULTS.glob("*.json")) if path.stem in NETWORKS]


@pytest.fixture
def loaders(shapes):
    train = make_loader(shapes, course_policy(), batch_size=16, shuffle=True, workers=0)
    return train, make_loader(shapes, eval_policy(), batch_size=16, workers=0)


def muon_run(loaders, epochs=3, **arguments):
    """Return a seeded model after some epochs of Muon with a schedule, and its history."""
    seed_everything(1)
    model = build_network("dilated_separable_net")
    groups = muon_groups(model, lr=0.02, sgd_lr=0.1, weight_decay=0.01, sgd_weight_decay=1e-4)
    optimizer = Muon(groups)
    scheduler = one_cycle(optimizer, 3 * len(loaders[0]))
    return model, fit(model, *loaders, epochs=epochs, optimizer=optimizer, scheduler=scheduler, **arguments)


def equal(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def without_times(history):
    return {name: values for name, values in vars(history).items() if "second" not in name}


def test_a_network_learns_a_few_images_by_heart(shapes):
    plain = make_loader(shapes, eval_policy(), batch_size=20, shuffle=True, workers=0)
    seed_everything(0)
    model = build_network("dilated_separable_net")
    optimizer = Muon(muon_groups(model, lr=0.02, sgd_lr=0.1, weight_decay=0, sgd_weight_decay=0))
    recipe = {"epochs": 25, "optimizer": optimizer, "scheduler": one_cycle(optimizer, 25 * len(plain))}
    history = fit(model, plain, plain, **recipe, verbose=False, device="cpu")
    assert history.train_loss[0] == pytest.approx(math.log(10), rel=0.15)
    assert history.train_acc[-1] > 0.9


def test_what_is_printed_has_a_fixed_width(loaders, capsys):
    muon_run(loaders, device="cpu", precision="float32")
    first, header, *lines = capsys.readouterr().out.splitlines()
    assert first == "Training on cpu in float32, 4 batches an epoch"
    assert header == HEADER
    assert {len(line) for line in lines} == {len(HEADER)}
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    muon_run(loaders, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_the_statistics_are_those_of_the_images(loaders):
    """With a learning rate of 0 the training loss is that of the unchanged network in train mode."""
    seed_everything(0)
    model = build_network("dilated_net")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    history = fit(model, *loaders, epochs=1, optimizer=optimizer, verbose=False, precision="float32")
    loaders[0].sampler.set_epoch(0)
    losses = []
    with torch.no_grad():
        for images, labels in loaders[0]:
            losses.append(nn.functional.cross_entropy(model.train()(images), labels, reduction="none"))
    assert len({len(batch) for batch in losses}) == 2  # the last batch is smaller
    assert history.train_loss[0] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


def test_two_runs_with_one_seed_are_equal_to_the_bit(loaders):
    (first, history), (second, again) = muon_run(loaders), muon_run(loaders)
    assert equal(first, second)
    assert without_times(history) == without_times(again)


def test_a_cut_run_goes_on_to_the_same_bits(loaders, tmp_path, capsys):
    expected, history = muon_run(loaders)
    path = tmp_path / "run" / "checkpoint.pt"
    muon_run(loaders, epochs=2, checkpoint=path)
    capsys.readouterr()
    model, resumed = muon_run(loaders, checkpoint=path)
    assert equal(model, expected)
    assert without_times(resumed) == without_times(history)
    assert len(capsys.readouterr().out.splitlines()) == 5  # the first epochs' lines are printed again
    model, finished = muon_run(loaders, checkpoint=path)
    assert equal(model, expected)
    assert finished == resumed


def test_a_checkpoint_of_another_run_is_refused(loaders, tmp_path):
    path = tmp_path / "checkpoint.pt"
    muon_run(loaders, checkpoint=path, verbose=False)
    with pytest.raises(ValueError, match="holds 3 epochs, more than the 2 asked for: name another file"):
        muon_run(loaders, epochs=2, checkpoint=path)
    with pytest.raises(ValueError, match=r"its network was DilatedSeparableNet.*, not DilatedNet"):
        fit(build_network("dilated_net"), *loaders, epochs=5, checkpoint=path)
    other = "float32" if best_precision(torch.device("cpu")) == "bfloat16" else "bfloat16"
    with pytest.raises(
        ValueError, match=rf"another run, its precision was .*, not {other}: say restart=True to start afresh"
    ):
        muon_run(loaders, checkpoint=path, precision=other)


def test_a_loss_that_is_not_finite_stops_the_run(loaders):
    optimizer = torch.optim.SGD((model := build_network("dilated_net")).parameters(), lr=1e30)
    with pytest.raises(
        FloatingPointError, match=r"not finite since step 2 of epoch 1, at learning rate 1.00e\+30: lower the"
    ):
        fit(model, *loaders, epochs=1, optimizer=optimizer, verbose=False)


def test_bad_arguments_are_named(loaders):
    model = build_network("dilated_net")
    with pytest.raises(ValueError, match="epochs=0: expected 1 or more"):
        fit(model, *loaders, epochs=0)
    with pytest.raises(ValueError, match="precision='half': choose one of float32, bfloat16, float16"):
        fit(model, *loaders, epochs=1, precision="half")


def test_a_network_with_dilated_depthwise_convolutions_trains_in_float32(loaders, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), depthwise, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    history = fit(model, *loaders, epochs=1, device="cpu", verbose=False)
    assert history.run["precision"] == "float32"
    with pytest.raises(
        ValueError,
        match="on a CPU torch can get the gradient of '1' wrong in it, a dilated convolution in groups; leave",
    ):
        fit(model, *loaders, epochs=1, device="cpu", precision="bfloat16")


def test_bfloat16_trains_too(loaders):
    history = fit(build_network("dilated_net"), *loaders, epochs=1, precision="bfloat16", verbose=False)
    assert history.train_loss[0] == pytest.approx(math.log(10), rel=0.3)


def test_evaluate_counts_every_image_once(loaders, shapes):
    model = build_network("dilated_net")
    predictions = predict(model, loaders[1])
    assert evaluate(model, loaders[1]) == (predictions.loss, predictions.accuracy)
    assert evaluate(model, make_loader(shapes, eval_policy(), batch_size=60, workers=0)).loss == pytest.approx(
        predictions.loss, rel=1e-5
    )


def test_training_on_real_images_lowers_the_loss(real_images):
    train_set, _ = real_images
    few = train_set.subset(torch.randperm(len(train_set), generator=torch.Generator().manual_seed(0))[:1024].numpy())
    train = make_loader(few, course_policy(), batch_size=64, shuffle=True)
    test = make_loader(few, eval_policy(), batch_size=512)
    seed_everything(0)
    history = fit(build_network("dilated_net"), train, test, epochs=3, verbose=False)
    assert history.train_loss[-1] < history.train_loss[0] - 0.2


@pytest.mark.parametrize("path", RECORDS, ids=[path.stem for path in RECORDS])
def test_shipped_weights_do_what_their_records_say(real_images, path):
    record = json.loads(path.read_text(encoding="utf-8"))
    _, test_set = real_images
    if test_set.name != record["images"]:
        pytest.skip(f"the record is of {record['images']!r}, these images are {test_set.name!r}: set EVA_DATA_NAME")
    model = load_pretrained(path.stem).to(memory_format=torch.channels_last)
    result = evaluate(model, make_loader(test_set, eval_policy(), batch_size=100))
    assert result.acc == pytest.approx(record["test_acc"], abs=0.0005)
    assert result.loss == pytest.approx(record["test_loss"], abs=0.0005)


def test_averaged_weights_are_tested_and_left_in_the_model(loaders):
    after_steps = []
    seed_everything(2)
    model = build_network("dilated_net")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.04)
    optimizer.register_step_post_hook(lambda *_: after_steps.append(model.layers[0][0].weight.detach().clone()))
    history = fit(model, *loaders, epochs=2, optimizer=optimizer, ema_decay=0.2, verbose=False, device="cpu")
    expected = after_steps[0]
    for count, weight in enumerate(after_steps[1:], start=1):
        kept = min(0.2, count / (count + 9))
        expected = kept * expected + (1 - kept) * weight
    assert torch.allclose(model.layers[0][0].weight, expected, atol=1e-6)
    assert not torch.allclose(expected, after_steps[-1], atol=1e-4)
    precision = best_precision(torch.device("cpu"))
    assert evaluate(model, loaders[1], precision=precision).acc == history.test_acc[-1]


def test_a_mask_of_infinities_that_is_not_kept_is_no_broken_weight(loaders):
    model = build_network("dilated_net")
    model.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1), persistent=False)
    assert len(fit(model, *loaders, epochs=1, verbose=False, device="cpu")) == 1


def test_a_part_that_keeps_more_than_tensors_is_trained_kept_and_written_down(loaders, tmp_path, shapes):
    seed_everything(2)
    model = MovingAverage(build_network("dilated_net"), 0.9)  # its state has a number of updates
    model.module.requires_grad_(True)
    history = fit(model, *loaders, epochs=1, verbose=False, device="cpu", checkpoint=tmp_path / "checkpoint.pt")
    parts = {"network": "averaged", "train_set": shapes, "test_set": shapes, "settings": {"epochs": 1}}
    save_run(tmp_path, model=model, history=history, predictions=predict(model, loaders[1]), **parts)
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert MovingAverage(build_network("dilated_net"), 0.9).load_state_dict(weights).missing_keys == []
    Distillation(model)(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64))
    assert "MovingAverage of weights" in repr(Distillation(model))


def test_a_long_average_forgets_the_weights_before_the_first_steps():
    layer = nn.BatchNorm1d(1)
    averaged = MovingAverage(layer, 0.999)
    for count in range(200):
        layer.running_mean.fill_(0.0 if count < 10 else 1.0)
        layer.num_batches_tracked += 1
        averaged.update(layer)
    assert averaged.module.running_mean.item() > 0.99  # 0.17 if it kept 0.999 of itself from the start
    assert averaged.module.num_batches_tracked == 200


def test_the_average_is_that_of_torchs_own_class():
    decay = 0.9
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours = MovingAverage(model, decay)
    theirs = AveragedModel(
        model,
        avg_fn=lambda mean, now, count: mean + (1 - min(decay, count.item() / (count.item() + 9))) * (now - mean),
        use_buffers=True,
    )
    for _ in range(100):  # from the 82nd update on the average keeps the whole 0.9
        with torch.no_grad():
            model[0].weight += torch.randn(4, 3)
            model(torch.randn(8, 3))  # which changes the running statistics
        ours.update(model)
        theirs.update_parameters(model)
    same = theirs.module.state_dict()
    for name, value in ours.module.state_dict().items():
        if value.is_floating_point():  # the number of batches is counted, and not averaged
            assert torch.allclose(value, same[name], rtol=1e-4, atol=1e-6), name


def test_a_finished_run_gives_the_averaged_weights_again(loaders, tmp_path):
    arguments = {"ema_decay": 0.7, "verbose": False, "device": "cpu", "checkpoint": tmp_path / "run.pt"}
    first, history = muon_run(loaders, **arguments)
    second, again = muon_run(loaders, **arguments)
    assert equal(first, second)
    assert vars(history) == vars(again)
    with pytest.raises(
        ValueError, match=r"its optimizer was weights averaged with 0\.7, not weights averaged with 0\.8: "
    ):
        muon_run(loaders, **{**arguments, "ema_decay": 0.8})


def test_deterministic_runs_take_repeatable_algorithms_alone_and_leave_the_settings(loaders):
    seen = []

    def loss_fn(logits, labels):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return nn.functional.cross_entropy(logits, labels)

    _, history = muon_run(loaders, epochs=1, loss_fn=loss_fn, deterministic=True, verbose=False, device="cpu")
    assert all(seen)
    assert not torch.are_deterministic_algorithms_enabled()
    assert history.run["precision"].endswith(", deterministic")


def test_a_compiled_network_trains_as_its_program_and_says_so(loaders, tmp_path):
    runs, programs = [], []
    for compiled in (False, True):
        seed_everything(0)
        model = build_network("dilated_net")
        if compiled:
            model.compile(dynamic=False, backend=lambda graph, _: programs.append(graph) or graph)
        history = fit(model, *loaders, epochs=1, ema_decay=0.9, verbose=False, checkpoint=tmp_path / f"{compiled}.pt")
        assert bool(programs) == compiled
        runs.append((model, history))
    assert equal(runs[0][0], runs[1][0])
    assert list(runs[0][0].state_dict()) == list(runs[1][0].state_dict())
    assert runs[1][1].run == runs[0][1].run | {"precision": f"{runs[0][1].run['precision']}, compiled"}
    with pytest.raises(ValueError, match="compiled"):
        fit(runs[1][0], *loaders, epochs=1, ema_decay=0.9, verbose=False, checkpoint=tmp_path / "False.pt")


def test_a_batch_transform_gives_what_is_trained_on(loaders):
    """The loss is the cross entropy against both labels by their shares."""
    seen = []

    def halves(images, labels):
        seen.append(len(labels))
        return images, nn.functional.one_hot(labels, 10) / 2 + nn.functional.one_hot(labels.roll(1), 10) / 2

    seed_everything(0)
    model = build_network("dilated_net")
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    history = fit(
        model, *loaders, epochs=1, optimizer=still, verbose=False, precision="float32", batch_transform=halves
    )
    losses = []
    loaders[0].sampler.set_epoch(0)
    with torch.no_grad():
        for images, labels in loaders[0]:
            logits = model.train()(images)
            for target in (labels, labels.roll(1)):
                losses += [nn.functional.cross_entropy(logits, target, reduction="none")]
    assert history.train_loss[0] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert sum(seen) == len(loaders[0].dataset)
    assert history.run["batch transform"] == "halves"


def test_mixed_images_of_a_cut_run_are_those_of_an_uncut_one(loaders, tmp_path):
    mixed = {"batch_transform": v2.MixUp(alpha=1.0, num_classes=10), "verbose": False}
    whole, history = muon_run(loaders, **mixed)
    muon_run(loaders, epochs=1, checkpoint=tmp_path / "a.pt", **mixed)
    cut, again = muon_run(loaders, checkpoint=tmp_path / "a.pt", **mixed)
    assert equal(whole, cut)
    assert without_times(again) == without_times(history)
    with pytest.raises(ValueError, match="its batch transform was MixUp"):
        muon_run(loaders, checkpoint=tmp_path / "a.pt", batch_transform=v2.CutMix(num_classes=10))


@pytest.mark.parametrize(
    "transform",
    [
        lambda images, labels: (images[:1], labels),
        lambda images, labels: (images, labels.float()),
        lambda images, labels: (images, labels[:2]),
        lambda images, labels: images,
        lambda images, labels: None,
        lambda images, labels: (images, labels.numpy()),
    ],
)
def test_a_batch_transform_that_gives_something_else_is_refused(loaders, transform):
    with pytest.raises(ValueError, match="batch_transform gives"):
        fit(build_network("dilated_net"), *loaders, epochs=1, verbose=False, batch_transform=transform)


def test_targets_of_other_classes_and_no_function_are_refused(loaders):
    settings = {"epochs": 1, "verbose": False}
    with pytest.raises(ValueError, match="probabilities of 100 classes, but the network has 10 outputs"):
        fit(build_network("dilated_net"), *loaders, batch_transform=v2.MixUp(num_classes=100), **settings)
    with pytest.raises(ValueError, match="batch_transform is a float"):
        fit(build_network("dilated_net"), *loaders, batch_transform=0.2, **settings)
