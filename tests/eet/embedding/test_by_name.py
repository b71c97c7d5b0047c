"""The class of a name, and its options."""

import pytest

from eet.embedding.by_name import class_by_name
from eet.errors import InputError


class Layer:
    def __init__(self, width: int, *, words: int = 2, centred: bool = False) -> None:
        pass


def test_a_name_and_its_options_give_the_class():
    assert class_by_name("layer", {"layer": Layer}, "layer", ["words"], positional=1) is Layer


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("other", [], "there is no layer 'other': use one of layer"),
        ("layer", ["words", "width"], "the layer layer has no option width: it has words, centred"),
    ],
)
def test_other_names_and_options_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        class_by_name("layer", {"layer": Layer}, name, options, positional=1)
