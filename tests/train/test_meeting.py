"""The processes of a launch meet under a name of their own, whatever earlier launches left in the store."""
import threading

import pytest
from torch.distributed import HashStore

from meristem.core.errors import MachineError
from meristem.train.meeting import session


def names(store: HashStore, world: int, late: tuple[int, ...] = ()) -> list[str]:
    """What each process of a launch calls it; those in `late` come last."""
    found: dict[int, str] = {}
    threads = [threading.Thread(target=lambda r=rank: found.update({r: session(store, r, world, 20.0)}))
               for rank in sorted(range(world), key=lambda r: r in late)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(world)]


@pytest.mark.parametrize("late", [(), (0,), (1, 2)])
def test_launch_after_launch_in_one_store(late: tuple[int, ...]) -> None:
    store, seen = HashStore(), set()
    for _ in range(5):
        found = names(store, 3, late)
        assert len(set(found)) == 1 and found[0] not in seen
        seen.add(found[0])


def test_what_a_killed_launch_left_behind_is_answered_to_nobody() -> None:
    store = HashStore()
    store.set("hello-1", "dead")
    store.set("here-dead-1", "1")
    found = names(store, 2)
    assert found[0] == found[1] != "dead"


def test_those_who_wait_for_nobody_say_so() -> None:
    with pytest.raises(MachineError, match="of 2 processes not all came"):
        session(HashStore(), 0, 2, 0.05)
    with pytest.raises(MachineError, match="rank 0 did not answer"):
        session(HashStore(), 1, 2, 0.05)
