"""pretrain --dry-run and launch: text and JSON, and refusals in one line."""
import yaml

MESH = ["--mesh", "dp=4,tp=2,pp=2", "train.batch=64", "train.micro=8"]


def test_a_dry_run_prints_the_placement_and_needs_no_device(run):
    done = run("pretrain", "llama", *MESH, "--dry-run", "--device", "h100-sxm", "--price", "2")
    assert done.status == 0 and "mesh pp=2,dp=4,tp=2: 16 x h100-sxm in 2 nodes, 8 micro-batches" in done.out
    assert "stage 1 (processes 8 to 15): layers 3 to 5, norm and head" in done.out and "dollars" in done.out
    facts = run("pretrain", "llama", *MESH, "--dry-run", "--device", "h100-sxm", "--json").json
    assert facts["devices"] == 16 and len(facts["stages"]) == 2 and facts["dollars"] is None
    assert sum(facts["stages"][0]["memory"].values()) < facts["memory"] and facts["step_seconds"] > 0


def test_a_launch_file_repeats_the_command(run):
    done = run("launch", "llama", *MESH, "--device", "h100-sxm", "--print", "slurm", "--out", "runs/x y")
    assert done.status == 0 and done.out.startswith("#!/bin/bash\n") and "#SBATCH --nodes=2" in done.out
    words = "-m meristem pretrain llama train.batch=64 train.micro=8 train.mesh=dp=4,tp=2,pp=2 --out 'runs/x y' ||"
    assert words in done.out
    sky = run("launch", "llama", *MESH, "--device", "h100-sxm", "--print", "sky", "--json").json
    assert yaml.safe_load(sky["text"])["resources"] == {"accelerators": "H100:8"} and sky["nodes"] == 2
    here = run("launch", "llama", "train.mesh=dp=2").out
    assert "torchrun --nnodes 1 --nproc-per-node 2 --max-restarts 3 --standalone -m meristem pretrain llama" in here


def test_what_does_not_fit_is_refused_in_one_line(run):
    for words, says in [(["--mesh", "tp=3", "--dry-run", "--device", "h100-sxm"], "do not divide into tp=3"),
                        (["--dry-run", "--device", "h100"], "did you mean h100-"),
                        (["--dry-run"], "on which device? --device one of v100-sxm2-32gb, t4"),
                        (["--mesh", "pp=4", "--dry-run", "--device", "h100-sxm"], "6 layers do not divide into pp=4")]:
        done = run("pretrain", "llama", *words)
        assert done.status == 2 and says in done.complaint
    assert "do not divide into tp=3" in run("launch", "llama", "--mesh", "tp=3", "--device", "h100-sxm").complaint
    assert "did you mean slurm" in run("launch", "llama", "--print", "slrum").complaint
