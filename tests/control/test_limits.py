import numpy as np
import pytest

from dexhil.control.limits import UnsafeCommandError, check_command
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_command_names_the_joint(value):
    action = SPEC.home.copy()
    check_command(action, SPEC)
    action[3] = value
    with pytest.raises(UnsafeCommandError, match=r"joint fr3_joint4 is .*expected finite radians"):
        check_command(action, SPEC)


def test_wrong_width_is_refused():
    with pytest.raises(UnsafeCommandError, match=r"expected \[19\] joints of fr3_dexhand021, got \[7\]"):
        check_command(SPEC.home[:7], SPEC)
