import json
import re
from pathlib import Path

import pytest

from eva_utils.models import NETWORKS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = sorted((ROOT / "results").glob("*.json"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_every_record_is_quoted():
    assert RECORDS
    titles = [json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"] for path in NOTEBOOKS]
    titles = " ".join("".join(title) for title in titles)
    for path in RECORDS:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert path.stem in NETWORKS or f"{record['test_acc']:.2%}" in titles, path


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
    # in float32; after each epoch the network was tested in the precision that it was trained in
    assert record["test_acc"] == pytest.approx(record["history"]["test_acc"][-1], abs=0.003)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_of_make_are_those_of_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", README))
    assert named <= targets
    assert {"demo", "test", "train", "lab", "stamp"} <= named
