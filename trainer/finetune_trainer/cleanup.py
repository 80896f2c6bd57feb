"""The cleanup stage: removes what one run left in the store, and nothing else. Torch-free.

The FineTuneJob is being deleted and its deletionPolicy is Delete. Only `<output.uri>/runs/<name>-<uid8>/` goes; other
runs and the shared cache stay. Killed and started again it goes on with what is left.
"""

from __future__ import annotations

import logging
from pathlib import Path

from finetune_api.job_file import JobFile
from finetune_api.reasons import Reason
from finetune_api.termination import TerminationMessage
from finetune_trainer.current_pointer import remove_current
from finetune_trainer.errors import ObjectMissing
from finetune_trainer.storage import ObjectStore

logger = logging.getLogger(__name__)


def run(job: JobFile, job_path: Path) -> TerminationMessage:
    """Remove the run's folder. `job_path` is not needed here."""
    del job_path
    store, layout = ObjectStore.open(job.spec.output.store), job.layout
    try:
        # The pointer first: nobody shall be led to a model that is half gone.
        remove_current(store, layout)
        objects = store.delete_folder(layout.run_uri)
        uploads = store.abort_uploads(layout.run_uri)
    except ObjectMissing as error:
        return _done(f"Nothing was left to remove: {error.message}")
    return _done(f"Removed {objects} objects and {uploads} unfinished uploads below {layout.run_uri}/.")


def _done(message: str) -> TerminationMessage:
    return TerminationMessage(reason=Reason.CLEANED_UP, message=message)
