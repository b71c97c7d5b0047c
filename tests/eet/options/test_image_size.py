import pytest

from eet.options.image_size import height_and_width, image_size_problems


def test_one_number_is_a_square_and_two_are_height_and_width():
    assert (height_and_width(224), height_and_width((480, 640)), height_and_width(None)) == ((224, 224), (480, 640), None)
    assert [image_size_problems("--image_size", size) for size in (None, 16, 8192, (16, 8192))] == [[]] * 4


@pytest.mark.parametrize(("size", "shown"), [(15, "15"), (8193, "8193"), ((480, 15), r"\[480, 15\]"), ((0, 480), r"\[0, 480\]")])
def test_a_side_outside_the_limits_is_named(size, shown):
    (problem,) = image_size_problems("--image_size", size)
    with pytest.raises(ValueError, match=rf"--image_size {shown}: use 16 to 8192 pixels, .*height and width: '\[480,640\]'"):
        raise ValueError(problem)
