"""The main promise on real pods: one FineTuneJob in, a verified model in the store out, the same one each time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.e2e.bucket import Bucket
from tests.e2e.jobs import Jobs, JsonObject
from tests.e2e.side_by_side import side_by_side

PROMPTS = ["Where is parcel 7?", "订单8在哪里？"]


@side_by_side
def test_the_merged_model_is_base_plus_adapter_and_the_same_yaml_gives_it_again(jobs: Jobs) -> None:
    jobs.apply("again")
    first = jobs.wait_for("again", "Succeeded")["outputs"]
    with tempfile.TemporaryDirectory() as folder:
        check_merged_model(jobs.bucket, first, Path(folder))

    jobs.kubectl("delete", "ftj", "again", "--wait", "--cascade=foreground")
    left = [item["metadata"]["name"] for kind in ("jobs", "pods", "configmaps") for item in jobs.get(kind)]
    assert [name for name in left if name.startswith("again-")] == []

    jobs.apply("again")
    second = jobs.wait_for("again", "Succeeded")["outputs"]
    assert second["mergedURI"] != first["mergedURI"]
    assert second["manifestDigest"] == first["manifestDigest"], "equal runs have equal models"
    assert jobs.bucket.keys(first["mergedURI"]), "the first run's model is still there"


def check_merged_model(bucket: Bucket, outputs: JsonObject, folder: Path) -> None:
    """Compare what plain S3 tools fetched, loaded by plain transformers and peft."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged_folder = bucket.download(outputs["mergedURI"], folder / "merged")
    adapter_folder = bucket.download(outputs["adapterURI"], folder / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(merged_folder)
    base = AutoModelForCausalLM.from_pretrained(bucket.download(bucket.uri("base"), folder / "base"))
    rows = AutoTokenizer.from_pretrained(merged_folder)(PROMPTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        before = base(**rows).logits
        adapted = PeftModel.from_pretrained(base, adapter_folder).eval()(**rows).logits
        after = merged(**rows).logits
    assert (after - adapted).abs().max() <= 1e-4
    assert (after - before).abs().max() > 1e-2
    assert outputs["mergeMaxLogitDifference"] <= 1e-4
    assert AutoTokenizer.from_pretrained(merged_folder).chat_template
