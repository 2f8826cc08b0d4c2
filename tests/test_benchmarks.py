"""The benchmarks run, and print the tables that they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["throughput.py", "--count", "256", "--rounds", "1", "--images", "shapes"], "| fit, fast loader, float32 |"),
        (["input_side.py", "--rounds", "1", "--images", "shapes"], "| the whole policy |"),
        (["startup.py", "--rounds", "1"], "| the same and eva_utils |"),
        (["repeatability.py", "--epochs", "1", "--images", "shapes"], "| dilated_net | deterministic | equal |"),
        (["time_to_accuracy.py", "--loop", "fit", "--epochs", "1", "--images", "shapes"], "| 85.0% |"),
        (["time_to_accuracy.py", "--loop", "usual", "--epochs", "1", "--images", "shapes"], "| 85.0% |"),
        (
            ["time_to_accuracy.py", "--record", str(ROOT / "results" / "dilated_separable_net.json")],
            "| 85.0% | 3,959.1 |",
        ),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_each_prints_its_table_and_writes_its_record(tmp_path, command, says):
    script, *arguments = command
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            str(ROOT / "benchmarks" / script),
            *arguments,
            "--out",
            str(tmp_path / "record.json"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "EVA_SMOKE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["machine"]["cores"] >= 1
