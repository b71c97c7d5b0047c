import numpy as np
import pytest

from eet.errors import InputError
from eet.metrics import matches_by_label


def test_each_list_has_the_rows_of_the_label():
    labels = np.array([3, -1, 0, 3, 0, 7])
    found = matches_by_label(np.array([0, 9, 3, 0, -5]), labels)
    assert [found.of(query).tolist() for query in range(5)] == [[2, 4], [], [0, 3], [2, 4], []]
    assert found.counts_Q.tolist() == [2, 0, 2, 2, 0] and found.num_items == 6
    assert len(found.rows_M) == 6, "queries share the lists"


def test_without_items_nothing_matches():
    assert matches_by_label(np.array([0, 1]), np.zeros(0, int)).counts_Q.tolist() == [0, 0]


def test_labels_are_integers():
    with pytest.raises(InputError, match="gallery labels are float64"):
        matches_by_label(np.array([0]), np.array([0.5]))
