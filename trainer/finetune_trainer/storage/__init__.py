"""The object store, and the only user of boto3: everything else speaks of URIs, bytes and files."""

from finetune_trainer.storage.locations import ObjectInfo, S3Location
from finetune_trainer.storage.object_store import ObjectStore

__all__ = ["ObjectInfo", "ObjectStore", "S3Location"]
