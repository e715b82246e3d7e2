"""Plain lines where there is no terminal."""

import pytest

from fewmask.training import progress


@pytest.mark.parametrize(
    ("total", "last"),
    [(3, "predict: frame 3/3, 0 s, 0 s left"), (0, "predict: frame 3, 0 s"),
     (2, "predict: frame 3, 0 s")],
)  # fmt: skip
def test_time_left_is_told_only_where_the_number_is_known(total, last, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", 0.0)
    assert list(progress.watched("abc", total, "predict", "frame")) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[-1] == last
