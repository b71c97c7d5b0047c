import numpy as np
import pytest

from eet.figures import patch_similarity_figure


def test_patch_similarity_draws_and_tells_each_model() -> None:
    figure, table = patch_similarity_figure({"deep": np.array([0.25, 0.5, 0.75, 0.5]), "flat": np.array([0.125])}, title="t")
    (axes,) = figure.axes
    assert [np.asarray(line.get_xydata()).tolist() for line in axes.lines] == [[[1, 0.25], [2, 0.5], [3, 0.75], [4, 0.5]], [[1, 0.125]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["deep", "flat"]
    assert table.rows == [["deep", 4, 0.25, 0.5, 0.5, 0.75, 3], ["flat", 1, 0.125, 0.125, 0.125, 0.125, 1]]
    assert len(table.headers) == 7
    for wrong in ({}, {"a": np.array([])}, {"a": np.array([0.5, np.nan])}, {"a": np.ones((2, 2))}):
        with pytest.raises(ValueError, match="at least one|each block"):
            patch_similarity_figure(wrong, title="t")
