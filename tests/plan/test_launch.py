"""Launch files parse, and what they start is the command that was asked for."""
import shlex
import subprocess

import pytest
import yaml

from meristem.core.errors import RequestError
from meristem.plan.launch import WAYS, Job, text

WORDS = ("pretrain", "llama", "data.corpus=a b/c", "train.mesh=dp=16,tp=2", "--out", "runs/it's")
JOB = Job("a run's name", WORDS, 32, 8, "runs/it's", "h100-sxm")


def shell(way: str, job: Job) -> str:
    """The shell text of a launch file; it parses."""
    made = text(way, job)
    script = yaml.safe_load(made)["run"] if way == "sky" else made
    subprocess.run(["bash", "-n", "-c", script], check=True)
    return script


def started(script: str, **variables: str) -> list[list[str]]:
    """What the script would start, as bash splits it: torchrun, srun and scontrol are replaced by an echo."""
    fake = 'torchrun() { printf "%s\\0" torchrun "$@"; printf "\\n"; }\nsrun() { "$@"; }\n'
    fake += 'scontrol() { if [ "$1" = show ]; then printf "%s\\n" one two; else printf "%s\\0" scontrol "$@"; fi; }\n'
    environment = {"PATH": "/usr/bin:/bin", **variables}
    done = subprocess.run(["bash", "-c", fake + script], env=environment, capture_output=True, text=True, check=True)
    return [line.strip("\0").split("\0") for line in done.stdout.strip("\n").split("\n")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("job", [JOB, Job("one", WORDS, 8, 8, "out"), Job("cpu", WORDS, 4, 2, "out")],
                         ids=["four nodes", "one node", "processors"])
def test_the_command_inside_is_the_one_asked_for(way, job):
    said = started(shell(way, job), MASTER="m", SLURM_JOB_ID="7", SLURM_JOB_NODELIST="n[1-2]", SKYPILOT_NODE_RANK="1",
                   SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2")[0]
    assert said[0] == "torchrun" and said[said.index("-m"):] == ["-m", "meristem", *WORDS]
    flags = dict(zip(said[1:said.index("-m")], said[2:], strict=False))
    nodes = job.processes // job.here
    assert (flags["--nnodes"], flags["--nproc-per-node"]) == (str(nodes), str(job.here))
    assert int(flags["--nnodes"]) * int(flags["--nproc-per-node"]) == job.processes
    meeting = {"slurm": "one:29500", "torchrun": "m:29500"}
    if nodes > 1:
        assert flags.get("--rdzv-endpoint", "") == meeting.get(way, "") and ("--master-addr" in flags) == (way == "sky")
    if way == "sky":
        assert (flags["--master-addr"], flags["--node-rank"]) == ("10.0.0.1", "1")


def test_slurm_saves_in_time_and_queues_again_until_the_run_is_finished(tmp_path):
    job = Job("x", WORDS, 16, 8, str(tmp_path), "h100-sxm")
    script = shell("slurm", job)
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=8", "#SBATCH --ntasks-per-node=1", "#SBATCH --requeue",
            "#SBATCH --signal=TERM@120"} < set(script.splitlines())
    job_id = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n"}
    assert ["scontrol", "requeue", "7"] in started(script, **job_id)
    assert len(started(script, **job_id, SLURM_RESTART_COUNT="50")) == 1
    (tmp_path / "result.json").touch()
    assert len(started(script, **job_id)) == 1


def test_sky_names_the_devices_as_skypilot_does():
    task = yaml.safe_load(text("sky", JOB))
    assert task["resources"] == {"accelerators": "H100:8"} and task["num_nodes"] == 4 and task["name"] == "a-run-s-name"
    assert yaml.safe_load(text("sky", Job("x", WORDS, 4, 2, "o")))["resources"] == {"cpus": "2+"}


def test_torchrun_runs_here(tmp_path):
    """The words that torchrun itself would parse: it accepts them."""
    from torch.distributed.run import get_args_parser
    line = next(x for x in shell("torchrun", Job("x", WORDS, 2, 2, "o")).splitlines() if x.startswith("torchrun"))
    found = get_args_parser().parse_args(shlex.split(line)[1:])
    assert found.module and found.training_script == "meristem" and tuple(found.training_script_args) == WORDS
    assert (found.nproc_per_node, found.standalone, found.max_restarts) == ("2", True, 3)


@pytest.mark.parametrize(("way", "job", "says"), [
    ("slrum", JOB, "did you mean slurm"), ("slurm", Job("x", WORDS, 12, 8, "o"), "12 processes do not fill nodes of 8"),
    ("sky", Job("x", WORDS, 8, 8, "o", "mi250x"), "SkyPilot has no name for mi250x; known: v100")])
def test_what_cannot_be_launched_is_refused(way, job, says):
    with pytest.raises(RequestError, match=says):
        text(way, job)
