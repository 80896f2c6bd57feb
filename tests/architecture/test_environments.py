"""What each extra installs: the operator carries no ML stack and no S3 client, the prepare stage no torch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("extra", "present", "absent"),
    [
        pytest.param(
            "operator",
            {"kopf", "kubernetes"},
            {"torch", "transformers", "boto3", "botocore", "numpy"},
            id="operator",
        ),
        pytest.param(
            "prepare",
            {"boto3", "tokenizers", "pyarrow", "sklearn", "huggingface_hub", "modelscope_hub"},
            {"torch", "transformers", "datasets", "pandas", "kopf", "kubernetes"},
            id="prepare",
        ),
    ],
)
def test_an_environment_holds_what_its_part_needs_and_no_more(
    extra: str, present: set[str], absent: set[str], tmp_path: Path
) -> None:
    """Installs the extra as an image does, from uv.lock, and asks the environment itself."""
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv"), "VIRTUAL_ENV": ""}
    subprocess.run(
        ["uv", "sync", "--quiet", "--frozen", "--no-dev", "--no-editable", "--extra", extra],
        cwd=ROOT,
        env=environment,
        check=True,
    )
    probe = (
        "import importlib.util as u, sys;"
        "print(*[name for name in sys.argv[1:] if u.find_spec(name) is not None])"
    )
    found = subprocess.run(
        [tmp_path / "venv/bin/python", "-I", "-c", probe, *sorted(present | absent)],
        check=True,
        capture_output=True,
        text=True,
    )

    assert set(found.stdout.split()) == present
