"""Names that a person typed."""

import pytest

from dexhil.names import check_known, did_you_mean


def test_a_known_name_passes_and_an_unknown_one_gets_the_nearest_and_all() -> None:
    check_known("robot", "b", ("c", "b"))
    with pytest.raises(ValueError, match=r"^robot 'fr2' is not known; did you mean 'fr3'\? Known: \['fr3', 'ur5'\]$"):
        check_known("robot", "fr2", ("ur5", "fr3"))


def test_there_is_no_nearest_of_nothing() -> None:
    assert did_you_mean("a", ()) == ""


def test_what_is_no_text_is_refused_too() -> None:
    with pytest.raises(ValueError, match="robot None is not known"):
        check_known("robot", None, ("fr3",))
