"""Every broken data set of the corpus is refused before anything is trained on, in a sentence of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from finetune_api.exit_codes import ExitCode
from finetune_trainer.errors import DataError
from tests.builders.model_folders import write_model_folder
from tests.unit.trainer.data.broken_data import BROKEN, Broken
from tests.unit.trainer.data.preparing import Preparer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model"))


def refuse(broken: Broken, model: Path, folder: Path) -> DataError:
    settings = dict(broken.settings)
    source = settings.pop("source", None)
    with pytest.raises(DataError) as caught:
        Preparer(model, folder).prepare({broken.name: broken.content}, source=source, **settings)
    return caught.value


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_broken_data_are_refused_in_words(broken: Broken, model: Path, tmp_path: Path) -> None:
    error = refuse(broken, model, tmp_path)
    assert error.exit_code is ExitCode.DATA_ERROR
    for word in broken.words:
        assert word in error.message
    assert broken.name in error.message or "dataset.validation" in error.message
    assert error.message[-1] == "."


def test_the_corpus_is_large_and_every_sentence_its_own(model: Path, tmp_path: Path) -> None:
    assert len(BROKEN) >= 40
    sentences = Counter(
        refuse(broken, model, tmp_path / str(number)).message for number, broken in enumerate(BROKEN.values())
    )
    assert [sentence for sentence, count in sentences.items() if count > 1] == []
