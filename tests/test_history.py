import pytest

from eva_utils.history import Evaluation, History


def test_history_is_saved_and_loaded(tmp_path):
    history = History()
    history.append(Evaluation(2.0, 0.1), Evaluation(1.5, 0.2), lr=0.1, seconds=3.0, images_per_second=40.0)
    history.save(tmp_path / "history.json")
    assert History.load(tmp_path / "history.json") == history
    assert repr(history) == "History(1 epochs, last test accuracy 20.00%)"
    assert repr(History()) == "History(0 epochs)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no history"),
        ("[]", "expected the lists train_loss, "),
        ('{"train_loss": [1]}', "expected the lists"),
        (
            '{"train_loss": [1], "train_acc": [], "test_loss": [1], "test_acc": [1], "lr": [1], "seconds": [1], '
            '"images_per_second": [1]}',
            "differ in length",
        ),
    ],
)
def test_files_that_hold_no_history_are_refused(tmp_path, text, message):
    (tmp_path / "history.json").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        History.load(tmp_path / "history.json")
    assert str(error.value).startswith(f"{str(tmp_path / 'history.json')!r} is no history (")
