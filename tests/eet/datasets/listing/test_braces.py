import pytest

from eet.datasets.listing.braces import expand_braces


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("s-{000..003}.tar", ["s-000.tar", "s-001.tar", "s-002.tar", "s-003.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..10..5}", ["0", "5", "10"]),
        ("{a..e..2}", ["a", "c", "e"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{a,b}.csv", ["a.csv", "b.csv"]),
        ("{a,}x", ["ax", "x"]),
        ("{a,b{1,2}}-{x,y}", ["a-x", "a-y", "b1-x", "b1-y", "b2-x", "b2-y"]),
        ("{train-{0..1},val}.tar", ["train-0.tar", "train-1.tar", "val.tar"]),
        ("plain.tar", ["plain.tar"]),
        ("{plain}.tar", ["{plain}.tar"]),
        ("{plain}{a,b", ["{plain}{a,b"]),
        ("{x{a,b}}", ["{xa}", "{xb}"]),
        ("}{", ["}{"]),
        ("", [""]),
    ],
)
def test_braces_stand_for_what_they_do_in_bash(pattern, expected):
    assert expand_braces(pattern) == expected


@pytest.mark.parametrize("pattern", ["{0..99999999999999999999}", "{0..999}{0..999}{0..999}"])
def test_a_pattern_that_stands_for_too_many_names_is_refused(pattern):
    with pytest.raises(ValueError, match="at most 1000000 are allowed"):
        expand_braces(pattern)
