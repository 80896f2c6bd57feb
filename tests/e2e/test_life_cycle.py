"""The main promise on real pods: one FineTuneJob in, a verified model in the store out, whatever is killed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.quickstart.installation import NAMESPACE as OPERATOR_NAMESPACE
from tests.e2e.jobs import Jobs


def objects(s3: Any, bucket: str, prefix: str) -> set[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {item["Key"] for page in pages for item in page.get("Contents", [])}


def key_of(uri: str) -> str:
    return uri.split("/", 3)[3]


def metrics(s3: Any, jobs: Jobs, status: dict[str, Any]) -> list[dict[str, Any]]:
    run = key_of(status["outputs"]["adapterURI"]).rpartition("/")[0]
    text = s3.get_object(Bucket=jobs.bucket, Key=f"{run}/metrics.jsonl")["Body"].read().decode()
    return [json.loads(line) for line in text.splitlines()]


def in_phase(phase: str) -> Callable[[dict[str, Any]], bool]:
    return lambda status: status.get("phase") == phase


def download(s3: Any, bucket: str, uri: str, folder: Path) -> Path:
    folder.mkdir()
    for key in objects(s3, bucket, key_of(uri) + "/"):
        s3.download_file(bucket, key, str(folder / key.rpartition("/")[2]))
    return folder


def test_the_merged_model_pulled_with_plain_s3_tools_is_base_plus_adapter(
    jobs: Jobs, s3: Any, tiny_base: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    jobs.apply("plain")
    outputs = jobs.wait_for("plain", "Succeeded")["outputs"]

    merged_folder = download(s3, jobs.bucket, outputs["mergedURI"], tmp_path / "merged")
    adapter_folder = download(s3, jobs.bucket, outputs["adapterURI"], tmp_path / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(merged_folder)
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    rows = AutoTokenizer.from_pretrained(merged_folder)(
        ["Where is parcel 7?", "订单8在哪里？"], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        before = base(**rows).logits
        adapted = PeftModel.from_pretrained(base, adapter_folder).eval()(**rows).logits
        after = merged(**rows).logits
    assert (after - adapted).abs().max() <= 1e-4
    assert (after - before).abs().max() > 1e-2
    assert outputs["mergeMaxLogitDifference"] <= 1e-4
    assert AutoTokenizer.from_pretrained(merged_folder).chat_template


def test_a_killed_train_pod_leads_to_an_attempt_that_goes_on_from_the_last_checkpoint(
    jobs: Jobs, s3: Any
) -> None:
    jobs.apply("killed", training__maxSteps=60, checkpoints__everySteps=4)
    before = jobs.wait_until(
        "killed", "past a checkpoint", lambda s: s.get("checkpoint", {}).get("step", 0) >= 8
    )
    jobs.kubectl(
        "delete",
        "pod",
        "--grace-period=0",
        "--force",
        "-l",
        "finetune.dev/job=killed,finetune.dev/stage=train",
    )

    status = jobs.wait_for("killed", "Succeeded")

    train = [attempt for attempt in status["attempts"] if attempt["stage"] == "train"]
    lines = metrics(s3, jobs, status)
    resumed = next(line["step"] for line in lines if line["attempt"] == 2)
    assert [attempt["outcome"] for attempt in train] == ["Failed", "Succeeded"]
    assert resumed > before["checkpoint"]["step"] >= 8
    assert [line["step"] for line in lines] == list(range(1, 61))


def test_killing_the_operator_in_every_stage_changes_nothing(jobs: Jobs) -> None:
    jobs.apply("orphan", training__maxSteps=30)
    for stage in ("Preparing", "Training", "Exporting"):
        jobs.wait_until("orphan", stage, in_phase(stage))
        jobs.environment.run(
            *("kubectl", "-n", OPERATOR_NAMESPACE, "delete", "pod", "--grace-period=0", "--force"),
            *("-l", "app.kubernetes.io/name=finetune-operator"),
            quiet=True,
        )

    status = jobs.wait_for("orphan", "Succeeded")

    assert [(a["stage"], a["number"], a["outcome"]) for a in status["attempts"]] == [
        ("prepare", 1, "Succeeded"),
        ("train", 1, "Succeeded"),
        ("export", 1, "Succeeded"),
    ]


def test_deleting_removes_the_children_and_keeps_the_store_and_the_same_yaml_can_be_applied_again(
    jobs: Jobs, s3: Any
) -> None:
    jobs.apply("again", training__maxSteps=3)
    first = jobs.wait_for("again", "Succeeded")["outputs"]

    jobs.kubectl("delete", "ftj", "again", "--wait", "--cascade=foreground")
    left = [item["metadata"]["name"] for kind in ("jobs", "pods", "configmaps") for item in jobs.get(kind)]
    assert [name for name in left if name.startswith("again-")] == []

    jobs.apply("again", training__maxSteps=3)
    second = jobs.wait_for("again", "Succeeded")["outputs"]
    assert second["mergedURI"] != first["mergedURI"]
    assert second["manifestDigest"] == first["manifestDigest"], "equal runs have equal models"
    assert objects(s3, jobs.bucket, key_of(first["mergedURI"])), "the first run's model is still there"


def test_two_ranks_on_two_stand_in_gpus_learn_as_one(jobs: Jobs, s3: Any) -> None:
    jobs.apply("one", training__maxSteps=6)
    jobs.apply("two", training__maxSteps=6, parallelism__gpusPerNode=2)

    one, two = jobs.wait_for("one", "Succeeded"), jobs.wait_for("two", "Succeeded")

    losses = [[line["loss"] for line in metrics(s3, jobs, status)] for status in (one, two)]
    assert two["effective"]["worldSize"] == 2
    assert two["display"]["gpus"] == "2"
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_the_train_container_runs_without_any_privilege(jobs: Jobs) -> None:
    jobs.apply("secure", training__maxSteps=200)
    jobs.wait_until("secure", "training", lambda s: s.get("progress", {}).get("step", 0) > 0)
    (pod,) = jobs.get("pods", "-l", "finetune.dev/job=secure,finetune.dev/stage=train")
    proc = jobs.kubectl("exec", pod["metadata"]["name"], "--", "cat", "/proc/1/status")
    facts = dict(line.split(":\t", 1) for line in proc.splitlines() if ":\t" in line)

    assert facts["Uid"].split()[0] != "0"
    assert (int(facts["CapEff"], 16), facts["NoNewPrivs"], facts["Seccomp"]) == (0, "1", "2")
    with pytest.raises(Exception, match="Read-only file system"):
        jobs.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", "echo > /file")
