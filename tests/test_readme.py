import json
import re
from pathlib import Path

import pytest

from eva_utils.models import NETWORKS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = sorted((ROOT / "results").glob("*.json"))


def test_every_record_is_of_a_network():
    assert RECORDS
    assert {path.stem for path in RECORDS} <= set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_of_results_says_what_the_record_says(run, name):
    path = ROOT / "results" / f"{name}.json"
    (row,) = re.findall(rf"^\| `{name}` \| .*$", README, re.MULTILINE)
    if not path.exists():
        assert row.split(" | ")[3] == "not yet measured"
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    assert row == run.table_row(record)
    assert record["network"] == name
    assert record["settings"]["epochs"] == len(record["history"]["test_acc"])
    assert record["test_acc"] == pytest.approx(record["history"]["test_acc"][-1], abs=0.0005)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_of_make_are_those_of_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert named <= targets
    assert {"demo", "test", "train", "lab", "stamp"} <= named
