import json
import re
from pathlib import Path

import pytest

from eva_utils.models import NETWORKS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RECORDS = sorted((ROOT / "results").glob("*.json"))


def table_row(network):
    (row,) = re.findall(rf"^\| `{network}` \| (.*) \|$", README, re.MULTILINE)
    return row.split(" | ")


def test_every_network_has_a_record():
    assert [path.stem for path in RECORDS] == sorted(NETWORKS)


@pytest.mark.parametrize("path", RECORDS, ids=[path.stem for path in RECORDS])
def test_the_table_of_results_says_what_the_record_says(path):
    record = json.loads(path.read_text())
    settings, history = record["settings"], record["history"]
    parameters, _, epochs, test_acc, train_acc, images, trained_on = table_row(record["network"])
    assert record["network"] == path.stem
    assert parameters == f"{record['parameters']:,}"
    assert epochs == str(settings["epochs"]) == str(len(history["test_acc"]))
    assert test_acc == f"{record['test_acc']:.2%}"
    assert record["test_acc"] == pytest.approx(history["test_acc"][-1], abs=0.0005)
    assert train_acc == f"{history['train_acc'][-1]:.2%}"
    assert images == record["images"]
    assert trained_on == f"{record['device']}, {record['seconds'] / 60:.0f} minutes"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_of_make_are_those_of_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert named <= targets
    assert {"demo", "test", "train", "lab", "stamp"} <= named
