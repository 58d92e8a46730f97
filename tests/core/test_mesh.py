"""core.mesh: the text form, places of processes, mistakes."""
import numpy as np
import pytest

from meristem.core.errors import RequestError
from meristem.core.mesh import AXES, Mesh


def test_text_and_back():
    mesh = Mesh.of("dp=2, tp=4")
    assert mesh == Mesh(dp=2, tp=4) and mesh.world == 8 and mesh.rows == 2
    assert Mesh.of(str(mesh)) == mesh and Mesh.of("") == Mesh() and str(Mesh()) == "dp=1"
    assert Mesh.of("dp=2,ep=3").rows == 6


def test_places_are_those_of_an_array_with_the_axes_in_order():
    mesh = Mesh(dp=2, tp=3, pp=2, cp=2)
    for rank in range(mesh.world):
        assert tuple(mesh.at(rank).values())[::-1] == tuple(np.unravel_index(rank, mesh.sizes))
        assert mesh.at(rank).keys() == set(AXES)


@pytest.mark.parametrize(("text", "says"), [("dq=2", "did you mean"), ("dp=0", "above 0"), ("dp", "NUMBER"),
                                            ("dp=2,dp=2", "once"), ("tp=two", "NUMBER")])
def test_mistakes_are_named(text, says):
    with pytest.raises(RequestError, match=says):
        Mesh.of(text)
