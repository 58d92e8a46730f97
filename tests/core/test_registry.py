"""The folder is the registry; the two kinds of errors."""
import sys

import pytest

from meristem.core.errors import MachineError, MeristemError, RequestError, nearest
from meristem.core.registry import load, names


def test_entries_are_the_files_of_a_folder_and_listing_imports_none():
    sys.modules.pop("meristem.objectives.next_token", None)
    assert "next_token" in names("objectives") and "base" not in names("objectives")
    assert "meristem.objectives.next_token" not in sys.modules
    assert load("objectives", "next_token").__name__ == "meristem.objectives.next_token"


def test_an_unknown_entry_gets_the_nearest_name():
    with pytest.raises(RequestError, match="no models entry 'lama'; did you mean llama"):
        load("models", "lama")


def test_a_dotted_name_is_an_import_outside_the_house():
    assert load("models", "collections.abc").__name__ == "collections.abc"


@pytest.mark.parametrize(("name", "known", "answer"), [("lr", ["lr_max", "lrs"], "lrs"),
                                                       ("zzz", ["b", "a"], "known: a, b"), ("x", [], "none exist")])
def test_nearest(name, known, answer):
    assert answer in nearest(name, known)


def test_the_two_errors_carry_their_exit_status():
    assert (RequestError.status, MachineError.status) == (2, 1)
    assert issubclass(RequestError, MeristemError) and issubclass(RequestError, ValueError)
    assert issubclass(MachineError, MeristemError) and not issubclass(MachineError, (OSError, ValueError))
