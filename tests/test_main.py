import json
import signal
import subprocess
import sys

import pytest

from eva_utils.__main__ import main
from eva_utils.images import load_images
from eva_utils.models import NETWORKS
from eva_utils.recipes import RECIPES
from eva_utils.training import evaluate


@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_from_the_shell(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVA_SMOKE", "1")
    arguments = ["train", "--network", network, "--images", "shapes", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--epochs", "1", "--batch-size", "64", "--lr", "0.02", "--seed", "3"]) == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"accuracy_loss.png", "checkpoint.pt", "misclassified.png", "record.json", "weights.pt"}
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["settings"] == {"epochs": 1, "batch_size": 64, "lr": 0.02, "seed": 3}
    assert (record["network"], record["train_images"]) == (network, len(load_images("shapes")[0]))
    assert f"test accuracy on shapes: {record['test_acc']:.2%}" in capsys.readouterr().out


def test_every_network_has_a_recipe():
    assert set(RECIPES) == set(NETWORKS)


def test_the_same_folder_for_another_run_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EVA_SMOKE", "1")
    arguments = ["train", "--images", "shapes", "--out", str(tmp_path), "--epochs", "1"]
    assert main(arguments) == 0
    before = (tmp_path / "record.json").read_text()
    for other, name in (
        ("--lr", "optimizer"),
        ("--seed", "seed"),
        ("--batch-size", "batch size"),
        ("--hold-out", "images"),
    ):
        assert main([*arguments, other, "10"]) == 1
        said = capsys.readouterr().err
        assert f"is of another run, its {name} was" in said
        assert said.endswith("say --restart to start afresh, or name another folder with --out\n")
        assert name != "batch size" or len(said) < 400
    assert main([*arguments, "--network", "dilated_separable_net"]) == 1
    assert "its network was DilatedNet, 98,180 parameters, layers " in capsys.readouterr().err
    assert (tmp_path / "record.json").read_text() == before
    assert main(arguments) == 0
    assert main([*arguments, "--batch-size", "64", "--restart"]) == 0


def test_an_interruption_ends_all_and_leaves_no_record(tmp_path, monkeypatch, capsys, interruptible):
    monkeypatch.setenv("EVA_SMOKE", "1")

    def interrupted(model, loader, **arguments):
        signal.raise_signal(signal.SIGINT)
        return evaluate(model, loader, **arguments)

    command = ["train", "--images", "shapes", "--epochs", "2", "--seeds", "0-1", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("eva_utils.training.evaluate", interrupted)
        assert main(command) == 130
    assert capsys.readouterr().out.endswith("stopped after epoch 1: run it again to go on\n")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["checkpoint.pt"]
    assert main(command) == 0
    assert "deviation" in capsys.readouterr().out


def test_hyperparameters_are_chosen_on_held_back_images(tmp_path, monkeypatch):
    monkeypatch.setenv("EVA_SMOKE", "1")
    assert main(["train", "--images", "shapes", "--out", str(tmp_path), "--epochs", "1", "--hold-out", "50"]) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["images"], record["train_images"], record["test_images"]) == ("shapes, held back", 350, 50)


def test_help_lists_what_can_be_set():
    command = [sys.executable, "-W", "error", "-m", "eva_utils", "train", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for option in ("--network", "--images", "--epochs", "--batch-size", "--lr", "--seed", "--out", "dilated_net"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "resnet"], "invalid choice: 'resnet'"),
        (["--epochs", "0"], "0: expected more than 0"),
        (["--lr", "-1"], "-1: expected more than 0"),
        (["--seeds", "0,5-3"], "'0,5-3': expected different seeds, the lower ones first"),
        (["--seeds", "2,0-3"], "'2,0-3': expected different seeds, the lower ones first"),
        (["--batch-size", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_options_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["train", *arguments])
    assert message in capsys.readouterr().err


def test_errors_are_said_in_a_line(capsys):
    assert main(["train", "--images", "/nowhere"]) == 1
    assert capsys.readouterr().err.startswith("python -m eva_utils: there is no folder '/nowhere'")
