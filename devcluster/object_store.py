"""versitygw: an S3 server over a folder, for quickstart, integration and e2e tests.

It checks signatures and checksums and honours conditional writes, as the operator's users' stores do.
"""

import json
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from devcluster import preflight, state
from devcluster.http_client import answers
from devcluster.processes import Component
from devcluster.programs import ensure_programs, link_programs
from devcluster.site import Site
from devcluster.state import Description

REGION = "us-east-1"
HEALTH_PATH = "/devcluster-health"


@dataclass(frozen=True)
class AccessKey:
    """The server's only account."""

    identifier: str
    secret: str


def ensure_access_key(path: Path) -> AccessKey:
    """Return the key pair kept in this file, making a random one first unless there is one."""
    if not path.exists():
        content = {"identifier": f"DEV{secrets.token_hex(8).upper()}", "secret": secrets.token_urlsafe(30)}
        state.write_json(path, content)
    return AccessKey(**json.loads(path.read_text()))


class S3Server(Site):
    """An S3 server in a state folder; as a context manager it is gone, with its folder, at the end."""

    @property
    def region(self) -> str:
        return REGION

    @property
    def data(self) -> Path:
        """The folder behind the server: one folder a bucket, one file an object."""
        return self.state.root / "s3"

    @cached_property
    def endpoint(self) -> str:
        port = state.load_ports(self.state, ["versitygw"], self._address)["versitygw"]
        return f"http://{self._address}:{port}"

    @cached_property
    def access_key(self) -> AccessKey:
        return ensure_access_key(self.state.config / "s3-access-key.json")

    def start(self) -> None:
        """Start the server unless it runs, and wait until it answers."""
        if not self.state.root.exists():
            preflight.check_free_disk(self.state.root, preflight.FREE_GIB["s3"], "an S3 server")
        programs = ensure_programs(["versitygw"], self._console)
        self.state.ensure()
        if state.load_description(self.state) is None:
            state.save_description(self.state, Description("s3"))
        link_programs(programs, self.state.programs)
        self.data.mkdir(exist_ok=True)
        self.processes.ensure_all_running([self.component()], self._console)

    def stop(self) -> None:
        """Stop the process; buckets and objects stay."""
        self.processes.stop("versitygw")

    def component(self) -> Component:
        """Describe the process."""
        command = (
            *(str(self.state.programs / "versitygw"), "--quiet", "--health", HEALTH_PATH),
            *("--port", self.endpoint.removeprefix("http://"), "--region", REGION),
            *("posix", str(self.data)),
        )
        # By the environment: a command line can be read by every user of the machine.
        environment = {
            "ROOT_ACCESS_KEY": self.access_key.identifier,
            "ROOT_SECRET_KEY": self.access_key.secret,
        }
        return Component("versitygw", command, lambda: answers(self.endpoint + HEALTH_PATH), environment)
