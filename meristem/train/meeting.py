"""Where the processes of one launch meet: a name in torchrun's store that no earlier launch has used.

    store = meet(datetime.timedelta(minutes=30))       # then dist.init_process_group("gloo", store=store, ...)

The elastic agent keeps one store for all its restarts, and torch's env:// uses it without a prefix, so that restarted
processes read the addresses of dead ones: "connection refused", up to three restarts for one kill, or a hang (torch
2.13, `_create_c10d_store` and `DynamicRendezvousHandler.next_rendezvous`; TORCHELASTIC_RESTART_COUNT is no common name,
because nodes count apart). So rank 0 names the session, and tells it to each process under a key that only this very
process waits for; whatever an earlier launch left in the store is answered to nobody.
"""
import datetime
import time
import uuid

from torch.distributed import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from meristem.core.errors import MachineError

POLL = 0.01                             # seconds between looks


def meet(timeout: datetime.timedelta) -> tuple[Store, int, int]:
    """(store, rank, number of processes) of this launch, as torchrun's environment says.

    MachineError when the others do not come in time.
    """
    store, rank, world = next(rendezvous("env://", timeout=timeout))
    return PrefixStore(session(store, rank, world, timeout.total_seconds()), store), rank, world


def session(store: Store, rank: int, world: int, seconds: float) -> str:
    """The name of this launch, the same in all its processes and in no other launch."""
    mine, end = uuid.uuid4().hex, time.monotonic() + seconds
    if rank:
        store.set(f"hello-{rank}", mine)
        while not store.check([f"welcome-{mine}"]):
            _wait(end, "rank 0 did not answer")
        name = store.get(f"welcome-{mine}").decode()
        store.set(f"here-{name}-{rank}", "1")
        return name
    others, seen = range(1, world), dict[int, bytes]()
    while not all(store.check([f"here-{mine}-{other}"]) for other in others):
        for other in others:
            if store.check([f"hello-{other}"]) and (token := store.get(f"hello-{other}")) != seen.get(other):
                seen[other] = token                            # of this launch, or left by an earlier one
                store.set(f"welcome-{token.decode()}", mine)
        _wait(end, f"of {world} processes not all came")
    return mine


def _wait(end: float, why: str) -> None:
    if time.monotonic() > end:
        raise MachineError(f"{why}; look at the output of the others, and start the run again")
    time.sleep(POLL)
