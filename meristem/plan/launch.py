"""Files that start a run on many processes: a torchrun line, a SLURM batch script, a SkyPilot task. Text, nothing more.

    print(slurm(Job("llama", words, processes=32, per_node=8, device="h100-sxm", folder="runs/llama")))

All three start `torchrun`, whose agents put workers that die back to work; the run goes on from its newest checkpoint.
A SLURM job is told two minutes before its time is up, saves, and queues itself again until the run is finished. The
run folder and the corpus must lie where every node sees them.
"""
import math
import re
import shlex
from dataclasses import dataclass

import yaml

from meristem.core.errors import RequestError, nearest

RESTARTS = 3                            # of workers within one job; a worker that fails more often fails for a reason
REQUEUES = 50
GRACE = 120                             # seconds to save in before SLURM ends a job
PORT = 29500
# What SkyPilot calls a device: https://docs.skypilot.co/en/latest/reference/yaml-spec.html
SKY = {"v100-sxm2-32gb": "V100-32GB", "t4": "T4", "a100-sxm-40gb": "A100", "a100-sxm-80gb": "A100-80GB", "l40s": "L40S",
       "h100-sxm": "H100", "h200-sxm": "H200", "b200-sxm": "B200", "mi300x": "MI300X"}


@dataclass(frozen=True)
class Job:
    """What is to be started: `words` come after `torchrun ... -m meristem`. device "": processors only."""

    name: str
    words: tuple[str, ...]
    processes: int
    per_node: int
    folder: str
    device: str = ""

    @property
    def nodes(self) -> int:
        """How many machines; RequestError where the last one would not be full."""
        if self.processes > self.per_node and self.processes % self.per_node:
            raise RequestError(f"{self.processes} processes do not fill nodes of {self.per_node}")
        return math.ceil(self.processes / self.per_node)

    @property
    def here(self) -> int:
        """Processes on each machine."""
        return min(self.processes, self.per_node)

    @property
    def title(self) -> str:
        """The name with nothing in it that a job's name may not have."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name).strip("-") or "meristem"

    def command(self, meeting: str) -> str:
        """The torchrun line; `meeting` says how the machines find each other (shell text)."""
        return (f"torchrun --nnodes {self.nodes} --nproc-per-node {self.here} --max-restarts {RESTARTS} {meeting} "
                f"-m meristem {shlex.join(self.words)}")


def torchrun(job: Job) -> str:
    """A shell script for one machine, or to be started on each of several with MASTER set to the first one's name."""
    if job.nodes == 1:
        return f"#!/bin/bash\nset -euo pipefail\n{job.command('--standalone')}\n"
    meeting = f'--rdzv-id {job.title} --rdzv-backend c10d --rdzv-endpoint "$MASTER:{PORT}"'
    return (f"#!/bin/bash\n# Start this on each of {job.nodes} machines: MASTER=first-machine bash FILE\n"
            f"set -euo pipefail\n: \"${{MASTER:?the name of the first machine}}\"\n{job.command(meeting)}\n")


def slurm(job: Job) -> str:
    """A script for `sbatch`: one agent a node; saved and queued again when time runs out or a node fails."""
    devices = [f"#SBATCH --gpus-per-node={job.here}"] if job.device else []
    meeting = f'--rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:{PORT}"'
    done = shlex.quote(f"{job.folder}/result.json")
    return "\n".join([
        "#!/bin/bash", f"#SBATCH --job-name={job.title}", f"#SBATCH --nodes={job.nodes}",
        "#SBATCH --ntasks-per-node=1", *devices, "#SBATCH --exclusive", f"#SBATCH --signal=TERM@{GRACE}",
        "#SBATCH --requeue", "#SBATCH --open-mode=append", f"#SBATCH --output={job.title}-%j.log",
        "set -euo pipefail", 'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)', "status=0",
        f"srun {job.command(meeting)} || status=$?",
        f'if [ ! -e {done} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {REQUEUES} ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"', "fi", 'exit "$status"', ""])


def sky(job: Job) -> str:
    """A SkyPilot task (YAML) for `sky jobs launch`, which starts it again elsewhere when a machine is taken away.

    RequestError for a device that SkyPilot has no name for.
    """
    if job.device and job.device not in SKY:
        raise RequestError(f"SkyPilot has no name for {job.device}; known: {', '.join(SKY)}")
    wanted = {"accelerators": f"{SKY[job.device]}:{job.here}"} if job.device else {"cpus": f"{job.here}+"}
    meeting = (f'--node-rank "$SKYPILOT_NODE_RANK" --master-port {PORT} '
               '--master-addr "$(echo "$SKYPILOT_NODE_IPS" | head -n 1)"')
    task = {"name": job.title.lower().replace("_", "-"), "num_nodes": job.nodes, "resources": wanted, "workdir": ".",
            "setup": "pip install -e .\n", "run": f"set -euo pipefail\n{job.command(meeting)}\n"}
    return yaml.safe_dump(task, sort_keys=False, width=10_000)


WAYS = {"torchrun": torchrun, "slurm": slurm, "sky": sky}


def text(way: str, job: Job) -> str:
    """The file of one way; RequestError names the ways."""
    if way not in WAYS:
        raise RequestError(f"no way to launch called {way!r}; {nearest(way, WAYS)}")
    return WAYS[way](job)
