"""Replicas on a Ray cluster: the same application, an engine in each replica.

    pip install 'ray[serve]' 'meristem[serve]'
    MERISTEM_MODEL=/models/chat MERISTEM_API_KEY=sk-... serve run deploy.ray_serve:deployment

Ray's dashboard has no login of its own (CVE-2023-48022): keep its ports inside the cluster.
"""
import os
from pathlib import Path

from ray import serve

from meristem.serve.app import application_of
from meristem.serve.guard import Guard
from meristem.serve.keys import Keys
from meristem.serve.loading import Options, load_text
from meristem.serve.server import Server


def application() -> object:
    """The application of one replica."""
    keys = Keys.read(None)
    if not keys.keys:
        raise SystemExit("set MERISTEM_API_KEY: a cluster's address can be reached from other machines")
    model = load_text(Path(os.environ["MERISTEM_MODEL"]), Options())
    return application_of(Server({model.name: model}, Guard(keys, ("*",))))


@serve.deployment(num_replicas=2, max_ongoing_requests=256, ray_actor_options={"num_cpus": 2})
@serve.ingress(application)
class Replica:
    """One engine."""


deployment = Replica.bind()
