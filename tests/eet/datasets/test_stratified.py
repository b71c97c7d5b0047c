import numpy as np

from eet.datasets.stratified import draw_stratified


def test_all_but_one_of_each_label_is_the_most_that_is_drawn():
    labels = np.repeat([0, 1, 2], [1, 4, 6])
    drawn = draw_stratified([f"{row}.jpg" for row in range(11)], labels, 1.0, seed=0)
    assert [int(drawn[labels == label].sum()) for label in range(3)] == [0, 3, 5]


def test_an_image_more_in_one_label_moves_no_image_of_another():
    labels = np.repeat([0, 1], [20, 20])
    paths = [f"{row}.jpg" for row in range(40)]
    before = draw_stratified(paths, labels, 0.2, seed=0)
    after = draw_stratified([*paths, "40.jpg"], np.append(labels, 1), 0.2, seed=0)
    assert (before[:20] == after[:20]).all() and before.sum() == 8


def test_no_share_draws_nothing():
    assert not draw_stratified(["a.jpg", "b.jpg"], np.array([0, 0]), 0.0, seed=0).any()
    assert draw_stratified([], np.array([], dtype=np.int32), 0.5, seed=0).shape == (0,)
