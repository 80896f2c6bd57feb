"""`make quickstart`: from nothing to a fine-tuned model that answers, on a real Kubernetes cluster.

Reads top to bottom: cluster, images, base model and data into the store, operator, FineTuneJob, pull, compare.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from examples.quickstart import answers, base_model, run
from examples.quickstart.environment import Environment, QuickstartError, open_environment
from examples.quickstart.installation import install_operator, uninstall_operator

PULLED = Path("quickstart-model")


def quickstart(environment: Environment) -> None:
    """Run the whole way once, saying how long each step took."""
    with step("base model: a small Qwen3, pre-trained here"):
        base = base_model.ensure_base_model()
    with step("store: base model and rows"):
        run.upload_inputs(environment.store, base)
    with step("operator: helm upgrade --install"):
        install_operator(environment)
    with step("FineTuneJob: from kubectl apply to Succeeded"):
        run.submit(environment)
        run.follow(environment)
    with step("finetune pull: the merged model"):
        run.pull(environment, PULLED)
    with step("held-out requests: before and after"):
        answers.compare(base, PULLED)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Announce a step and say how long it took."""
    print(f"\n\033[1m▸ {title}\033[0m", flush=True)
    started = time.monotonic()
    yield
    print(f"  done in {time.monotonic() - started:.1f} s", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the quickstart, or undo it."""
    parser = argparse.ArgumentParser(prog="make quickstart", description=__doc__)
    parser.add_argument("--clean", action="store_true", help="remove what an earlier run made")
    clean = parser.parse_args(arguments).clean
    started = time.monotonic()
    try:
        if clean:
            uninstall_operator(PULLED)
            return 0
        with step("cluster and images"):
            environment = open_environment()
        quickstart(environment)
    except QuickstartError as error:
        print(f"\nquickstart: {error}", file=sys.stderr)
        return 1
    print(
        f"\nFrom nothing to a tuned model in {time.monotonic() - started:.0f} s. It is in {PULLED}/; ask it something:"
    )
    print(f'  .venv/bin/finetune ask {PULLED} "Where is my parcel?"')
    print("Look at the job:      source .devcluster/env && kubectl -n quickstart describe ftj support-bot")
    print("Remove everything:    make quickstart-clean")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
