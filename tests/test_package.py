import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import eva_utils

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_public_names_are_spelled_out_and_sorted():
    names = eva_utils.__all__
    order = sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert names == order
    assert all(hasattr(eva_utils, name) for name in names)
    assert all(getattr(eva_utils, name).__doc__ for name in names if not name.isupper())


def test_importing_does_nothing_else():
    program = (
        "import random, numpy, torch, matplotlib, warnings; warnings.simplefilter('error')\n"
        "before = (random.getstate(), numpy.random.get_state()[1].sum(), torch.get_rng_state().sum(), "
        "dict(matplotlib.rcParams), torch.get_num_threads())\n"
        "import eva_utils, sys\n"
        "after = (random.getstate(), numpy.random.get_state()[1].sum(), torch.get_rng_state().sum(), "
        "dict(matplotlib.rcParams), torch.get_num_threads())\n"
        "assert before == after and not torch.cuda.is_initialized() and 'seaborn' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_figures_are_loaded_when_first_asked_for():
    program = (
        "import sys, eva_utils\n"
        "assert 'matplotlib' not in sys.modules and 'plot_history' in dir(eva_utils)\n"
        "assert callable(eva_utils.plot_history) and 'matplotlib.pyplot' in sys.modules\n"
        "from eva_utils import *; plot_samples"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(AttributeError, match="module 'eva_utils' has no attribute 'plot_nothing'"):
        _ = eva_utils.plot_nothing


def test_requirements_and_package_ask_for_the_same():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = {line for line in lines if line and not line.startswith("#")}
    assert set(PROJECT["dependencies"]) <= required
    assert all("==" not in line for line in required)
    constrained = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {line.split(">=")[0] for line in required} <= constrained


def test_every_folder_of_modules_is_packed():
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "eva_utils").rglob("*.py")}
    assert {folder.as_posix().replace("/", ".") for folder in folders} == set(packed)


def test_the_placeholder_for_the_repositorys_address_is_plainly_one_or_gone():
    address = PROJECT["urls"]["repository"]
    assert address.startswith("https://github.com/")
    assert address.count("/") == 4
    assert "/OWNER/" in address or "owner" not in address.lower()


def test_importing_does_not_ask_the_network():
    program = (
        "import os, urllib.request; os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None)\n"
        "def refuse(*_, **__): raise SystemExit('asked the network')\n"
        "urllib.request.OpenerDirector.open = refuse\n"
        "import eva_utils.loaders"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Each room knows only rooms before it.
ROOMS = (
    *("checks", "distributed", "checkpoint", "runtime", "progress", "randomness", "download", "history", "epoch"),
    *("shapes", "folders", "cifar10", "images", "transforms", "batched", "loaders", "description"),
    *("dataflow", "fields", "receptive_field", "measured_field", "models", "mirrored", "summary"),
    *("optimizers", "recipes", "predictions", "grad_cam"),
    *("distillation", "assignment", "plots", "resume", "averaging", "step", "lr_range", "training"),
    *("records", "__init__", "__main__"),
)


def test_no_room_knows_a_later_one():
    for path in sorted((ROOT / "eva_utils").rglob("*.py")):
        room = path.relative_to(ROOT / "eva_utils").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("eva_utils."):
                other = node.module.split(".")[1]
                assert ROOMS.index(other) <= ROOMS.index(room), f"{path} imports {node.module}"
                assert other != room or path.parent.name == room, f"{path} imports itself"
