"""notebooks/run.py, which is a script and no module of the package."""

import nbformat
import pytest


def test_an_address_is_stamped_everywhere_and_can_be_stamped_again(run):
    for path in run.NOTEBOOKS:
        sources = [cell.source for cell in nbformat.read(path, as_version=4).cells]
        stamped = [run.stamped(source, "https://github.com/ada/course-9") for source in sources]
        text = "\n".join(stamped)
        assert "OWNER" not in text
        assert "git+https://github.com/ada/course-9\n" in text
        assert f"/github/ada/course-9/blob/main/notebooks/{path.name})" in text
        old = run.stamped(sources[0], "https://github.com/OWNER/eva_utils")
        assert run.stamped(stamped[0], "https://github.com/OWNER/eva_utils") == old
        assert sum(a != b for a, b in zip(sources, stamped, strict=True)) == 2  # title and setup


def test_other_addresses_are_refused(run):
    with pytest.raises(ValueError, match=r"repository = 'ada/course': expected https://github\.com/OWNER/NAME"):
        run.stamped("", "ada/course")


def test_notebooks_that_are_not_there_are_refused(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", "full", "4"])  # 04 is meant
    with pytest.raises(SystemExit):
        run.main()
    assert "no notebook's name starts so: choose from 01, 02, 03, 04, 05, 06, 07, 08" in capsys.readouterr().err
