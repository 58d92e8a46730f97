"""`meristem doctor` says whether untrusted code can be run here, and how to mend it."""
import pytest

from meristem.cli.doctor import doctor
from meristem.core import machine, sandbox
from meristem.core.machine import Machine

FAST = Machine(matmul_bf16=9e11, matmul_fp32=2e11, read_bandwidth=5e10, cores=2, memory=1 << 34, compiler=True)


@pytest.mark.parametrize("trouble", ["", "bwrap is not installed: apt-get install bubblewrap"])
def test_it_says_whether_the_sandbox_works(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "measured", lambda fresh: FAST)
    monkeypatch.setattr(sandbox, "trouble", lambda: trouble)
    answer = doctor(fresh=False)
    assert answer.facts["sandbox"] == (trouble or "works")
    line = next(line for line in answer.text.splitlines() if line.split()[:1] == ["sandbox"])
    assert (f"no: {trouble}" if trouble else "yes: ") in line
