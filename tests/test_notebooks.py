"""The rules that every notebook keeps, read off its JSON."""

import ast
import json
import re
import statistics
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch

import eva_utils as eva
from eva_utils.recipes import RECIPES

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.name for path in PATHS]
HEADINGS = ["Data", "Model", "Summary", "Train", "Curves", "Mistakes", "Takeaways"]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["repository"]
TRAINED = {path.name: path.stem[3:] for path in PATHS if path.stem[3:] in eva.NETWORKS}
RECORD = ROOT / "notebooks" / "08_record.ipynb"


@pytest.fixture(params=PATHS, ids=NAMES)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def test_there_are_notebooks():
    assert NAMES
    assert all(re.fullmatch(r"\d\d_[a-z_]+\.ipynb", name) for name in NAMES)


def test_the_format_is_valid_and_the_file_small(path, notebook):
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_000_000
    trains = any("eva.fit(" in cell.source for cell in code_cells(notebook))  # for which Colab gives it a GPU
    assert notebook.metadata.get("accelerator") == ("GPU" if trains else None)
    assert set(notebook.metadata) - {"accelerator"} == {"kernelspec", "language_info"}


def test_the_title_cell_tells_what_and_how_well(path, notebook):
    title = notebook.cells[0].source
    assert title.startswith(f"# {path.name[:2]} · ")
    owner = REPOSITORY.removeprefix("https://github.com/")
    assert f"(https://colab.research.google.com/github/{owner}/blob/main/notebooks/{path.name})" in title
    assert title.count("**Aim:**") == title.count("**Result:**") == 1
    position = NAMES.index(path.name)
    for neighbour in NAMES[max(0, position - 1) : position + 2]:
        assert neighbour == path.name or f"({neighbour})" in title


def test_the_setup_cell_is_the_same_everywhere(notebook):
    first = code_cells(nbformat.read(PATHS[0], as_version=4))[0].source
    assert code_cells(notebook)[0].source == first
    assert f"git+{REPOSITORY}\n" in first
    assert "--no-deps" in first


def test_headings_stand_in_order(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [heading for heading in HEADINGS if heading in headings]
    assert {"Data", "Takeaways"} <= set(headings)
    takeaways = text.split("## Takeaways")[1]
    assert re.findall(r"^(\d)\. ", takeaways, re.MULTILINE) == ["1", "2"]  # two exercises


def test_cells_are_short(notebook):
    sizes = []
    for cell in code_cells(notebook):
        if "(nn.Module)" in cell.source:  # the network that is the lesson
            assert len(lines(cell)) <= 30, cell.source
            continue
        assert len(lines(cell)) <= 20, cell.source
        sizes.append(len(lines(cell)))
    assert sum(size > 12 for size in sizes) <= max(1, 0.1 * len(sizes)), sizes


def test_a_cell_shows_at_most_one_thing(notebook):
    for cell in code_cells(notebook):
        assert len(cell.outputs) <= 1, cell.source


def test_outputs_come_from_one_run_from_top_to_bottom(notebook):
    if "not trained yet" in notebook.cells[0].source:
        pytest.skip("this notebook has not been run in full yet")
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == [*range(1, len(counts) + 1)]


def test_outputs_hold_nothing_that_does_not_belong(notebook):
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
            text = json.dumps([output.get("text", ""), output.get("data", {}).get("text/plain", "")])
            assert not re.search(r"/(home|root|tmp|mnt|opt|var|content|Users)/|widget|\d\d:\d\d:\d\d", text)


def test_cells_that_define_something_run_after_the_setup_cell_alone(notebook, capsys):
    setup, *cells = code_cells(notebook)
    for cell in cells:
        if re.search(r"^(def|class) ", cell.source, re.MULTILINE):
            names = {}
            exec(re.sub(r"^\s+%pip.*$", "    pass", setup.source, flags=re.MULTILINE), names)
            exec(cell.source, names)


def test_nothing_is_defined_twice():
    defined = []
    for path in PATHS:
        for cell in code_cells(nbformat.read(path, as_version=4)):
            if "%pip" not in cell.source:
                body = ast.parse(cell.source).body
                defined += [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(defined) == len(set(defined))


@pytest.mark.parametrize(("name", "network"), [*TRAINED.items(), (RECORD.name, "residual_net")])
def test_the_network_built_in_a_notebook_is_the_librarys(name, network):
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    (cell,) = (cell for cell in code_cells(notebook) if "(nn.Module)" in cell.source)
    names = {"eva": eva, "nn": torch.nn, "torch": torch}
    exec(cell.source, names)
    library = eva.build_network(network).eval()
    built = names[type(library).__name__]()
    built.load_state_dict(library.state_dict())
    assert torch.equal(built.eval()(torch.ones(1, 3, 32, 32)), library(torch.ones(1, 3, 32, 32)))
    assert str(built) == str(library)


@pytest.mark.parametrize(("name", "network"), TRAINED.items())
def test_the_shell_trains_by_the_notebooks_recipe(name, network):
    recipe = RECIPES[network]
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    text = "\n".join(cell.source for cell in code_cells(notebook))
    assert f'epochs = {{"full": {recipe["epochs"]}, ' in text
    assert f'batch_size = {{"full": {recipe["batch_size"]}, ' in text
    assert f"\nlr = {recipe['lr']}\n" in text
    assert f"warmup={recipe['warmup']}, final={recipe['final']})" in text
    assert ("eva.start_at_identity(model)" in text) == recipe["identity"]
    assert re.findall(r"ema_decay=([\d.]+)", text) == [str(recipe["ema_decay"])]
    names = {"eva": eva, "torch": torch, "lr": recipe["lr"], "model": eva.build_network(network)}
    (policy,) = re.findall(r"^policy = .*$", text, re.MULTILINE)
    optimizer = re.findall(r"^(?:groups|optimizer) = .*$", text, re.MULTILINE)
    exec("\n".join([policy, *optimizer]), names)
    assert str(names["policy"]) == str(recipe["policy"]())
    assert str(names["optimizer"]) == str(recipe["optimizer"](names["model"], recipe["lr"]))


@pytest.mark.parametrize(("name", "network"), TRAINED.items())
def test_the_stored_outputs_are_those_of_the_record(run, name, network):
    notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
    path = ROOT / "results" / f"{network}.json"
    if not path.exists():
        assert "not trained yet" in notebook.cells[0].source
        return
    record = json.loads(path.read_text(encoding="utf-8"))
    assert run.title_result(record) in notebook.cells[0].source
    (train,) = (cell for cell in code_cells(notebook) if "eva.fit(" in cell.source)
    (printed,) = train.outputs
    history = eva.History.from_lists(record["history"])
    assert printed.text.splitlines()[2:] == [history.line(epoch) for epoch in range(len(history))]
    recipe = RECIPES[network]
    assert record["settings"].items() >= {k: recipe[k] for k in ("epochs", "batch_size", "lr")}.items()
    words = record["history"]["run"]["optimizer"]
    assert f"weights averaged with {recipe['ema_decay']}" in words
    lowest = float(re.findall(r"'min_lr': ([\d.e-]+)", words)[0])
    assert lowest == pytest.approx(recipe["final"] * recipe["lr"], abs=1e-5)


def test_the_closing_table_says_what_the_records_say(stages):
    """Of each training epochs, the first seed's seconds and each seed's accuracies; what shipped weights measure."""
    notebook = nbformat.read(RECORD, as_version=4)
    cells = code_cells(notebook)
    (stated,) = (cell.source for cell in cells if cell.source.startswith("finals = "))
    finals = ast.literal_eval(stated.removeprefix("finals = "))
    (table,) = (cell.outputs[0].text for cell in cells if "*map(row, " in cell.source)
    (measured,) = (cell.outputs[0].text for cell in cells if "eva.load_pretrained(name)" in cell.source)
    assert {name.partition(",")[0] for name in finals} == set(eva.NETWORKS)
    for (name, final), printed in zip(finals.items(), table.splitlines()[1:], strict=True):
        network, *kinds = name.split(", ")
        trainings = final_trainings(network, final[0], "taught" in kinds, stages)
        seconds = sum(sum(record["history"]["seconds"]) for record in next(iter(trainings.values())))
        alone = [round(training[0]["test_acc"], 4) for training in trainings.values()]
        if (ROOT / "results" / f"{network}.json") in trainings:
            (shown,) = re.findall(rf"^{network} +[\d.]+%, mirrored ([\d.]+)%$", measured, re.MULTILINE)
            mirrored = [round(float(shown) / 100, 4)]
        else:
            mirrored = [round(mirrored_accuracy(path.stem), 4) for path in trainings]
        assert final == (final[0], round(seconds), alone, mirrored)
        assert printed.startswith(f"{name} ")
        assert [f"{statistics.mean(accuracies):.2%}" for accuracies in final[2:]] == re.findall(r"[\d.]+%", printed)
    for network in eva.NETWORKS:
        by_notebook = ROOT / "results" / f"{network}.json"
        by_probe = ROOT / "experiments" / "records" / f"{network}_0_test.json"
        shipped = json.loads((by_notebook if by_notebook.exists() else by_probe).read_text(encoding="utf-8"))
        assert re.search(rf"^{network} +{shipped['test_acc']:.2%}, mirrored [\d.]+%$", measured, re.MULTILINE)
        if not by_notebook.exists():
            assert f"mirrored {mirrored_accuracy(by_probe.stem):.2%}\n" in measured
    (both,) = re.findall(r"^dilated_separable_net .*, mirrored ([\d.]+%)$", measured, re.MULTILINE)
    assert any(f"without any teacher: {both}" in cell.source for cell in notebook.cells)


def test_the_way_to_the_record_has_a_step_that_changes_network_and_start_alone_and_ends_with_the_mean(stages):
    notebook = nbformat.read(RECORD, as_version=4)
    (stated,) = (cell.source for cell in code_cells(notebook) if cell.source.startswith("way = "))
    *_, taught, best, mean = ast.literal_eval(re.match("way = ({.*?})", stated, re.DOTALL)[1]).values()
    trainings = [final_trainings(name.split(", ")[0], 106, "taught" in name, stages) for name in (taught, best)]
    means = []
    for found in trainings:
        means.append(statistics.mean(training[0]["test_acc"] for training in found.values()))
    (says,) = (cell.source for cell in notebook.cells if cell.source.startswith("The step to `mirror_net` changes"))
    assert f"So {100 * (means[1] - means[0]):.1f} points are the network's, with the start that it has;" in says
    for of_one, of_the_other in zip(*(found.values() for found in trainings), strict=True):
        ours, theirs = of_one[0]["arguments"], of_the_other[0]["arguments"]
        assert {key for key in ours | theirs if ours[key] != theirs[key]} == {"network", "identity", "out"}
    assert mean == f"{best}, mean"
    ended = [training[0] for training in final_trainings("mirror_net", 126, True, stages).values()]
    assert all(record["arguments"]["mean_with_start"] for record in ended)
    gain = 100 * (statistics.mean(record["test_acc"] for record in ended) - means[1])
    assert f"The last step, {ended[0]['arguments']['epochs']} more epochs by another seed of that teacher" in says
    assert f"has {gain:.1f} points more, which may be chance" in says


def mirrored_accuracy(name):
    """Return what a network reaches with the mirror images."""
    path = ROOT / "experiments" / "records" / "mirrored" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["mirrored"]["acc"]


def final_trainings(network, epochs, taught, stages):
    """Return each seed's training of so many epochs in all: by the path of the last record all of them, backwards."""
    by_notebook = ROOT / "results" / f"{network}.json"
    if by_notebook.exists() and not taught:
        return {by_notebook: stages(by_notebook)}
    folder, found = ROOT / "experiments" / "records", {}
    of_seeds = [*folder.glob(f"{network}_{epochs}_epochs_[0-9]_test.json")]
    for path in of_seeds or folder.glob(f"{network}_*_test.json"):
        training = stages(path)
        arguments = training[0]["arguments"]
        same = arguments["network"] == network and bool(arguments.get("teacher")) == taught
        if same and sum(len(record["history"]["test_acc"]) for record in training) == epochs:
            assert found.setdefault(arguments["seed"], (path, training))[0] == path
    assert [*range(len(found))] == sorted(found) != []
    return dict(found[seed] for seed in sorted(found))


def test_our_own_networks_pass_every_clause_where_their_record_is_told():
    notebook = nbformat.read(RECORD, as_version=4)
    (cell,) = (cell for cell in code_cells(notebook) if "eva.check_assignment(eva.build_network(name)" in cell.source)
    assert re.findall(r"^(\w+) tier: (\w+)$", cell.outputs[0].text, re.MULTILINE) == [
        ("bonus", "passed"),
        ("standard", "passed"),
        ("bonus", "passed"),
        ("standard", "passed"),
        ("bonus", "passed"),
    ]
    for name in ("residual_net", "small_residual_net", "small_mirror_net", "mirror_net", "small_gated_mirror_net"):
        records = sorted((ROOT / "experiments" / "records").glob(f"{name}_[0-9]_test.json"))
        accuracies = [json.loads(path.read_text(encoding="utf-8"))["test_acc"] for path in records]
        assert f"{accuracies[0]:.2%}" in cell.outputs[0].text
        title = notebook.cells[0].source
        assert f"**{statistics.mean(accuracies):.2%}**" in title
        assert f"{statistics.mean(mirrored_accuracy(path.stem) for path in records):.2%}" in title
