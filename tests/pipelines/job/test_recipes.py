"""The values that a recipe fills in."""

from types import SimpleNamespace

import pytest

from pipelines.job.recipes import RECIPES, best_epochs, not_given


def test_a_recipe_sets_only_options_that_were_not_given():
    assert not_given(SimpleNamespace(beta=None, sigma=None), "loss", "best") == {"beta": 0.5}
    assert not_given(SimpleNamespace(beta=0.0, sigma=None), "loss", "best") == {}
    # An option that this kind of training does not have is not set.
    assert not_given(SimpleNamespace(hash_input=None), "student", "published") == {"hash_input": "logits"}


def test_both_recipes_have_the_same_groups():
    assert {name: set(values) for name, values in RECIPES.items()} == {name: {"train", "loss", "student"} for name in RECIPES}


@pytest.mark.parametrize(("images", "epochs"), [(500, 20), (6_000, 20), (50_000, 10), (500_000, 5), (10_000_000, 4)])
def test_epochs_fall_with_the_number_of_images(images: int, epochs: int):
    assert best_epochs(images) == epochs
