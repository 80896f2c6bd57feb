"""Hugging Face and ModelScope: repositories at one commit, files fetched with resume and verified.

Nothing of the hubs' client libraries is imported before a hub is used.
"""

from finetune_trainer.hubs.address import Hub, HubFile, HubSnapshot, RepositoryAddress, RepositoryKind
from finetune_trainer.hubs.repository import HubRepository

__all__ = ["Hub", "HubFile", "HubRepository", "HubSnapshot", "RepositoryAddress", "RepositoryKind"]
