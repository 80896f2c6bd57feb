"""What becomes of the rows once all is decided: the splits' files, a sample of them, and the report."""

from __future__ import annotations

import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from finetune_api.spec import DataFormat, Duplicates, LossOn, Task
from finetune_trainer.data.cleaning import Cleaner
from finetune_trainer.data.encoding import ExampleEncoder
from finetune_trainer.data.near_duplicates import NOTHING, NearRepeats
from finetune_trainer.data.prepared import (
    SAMPLE_FILE_NAME,
    SAMPLE_ROWS,
    SCHEMA,
    PreparedRows,
    PreparedRowsWriter,
    TokenizedRow,
    split_file_name,
    write_rows,
)
from finetune_trainer.data.report import (
    DataReport,
    DuplicatePair,
    DuplicateReport,
    LabelBalance,
    ReportFacts,
    SampleRow,
    SourceFacts,
    Tally,
    build_report,
    sample_positions,
)
from finetune_trainer.data.row_sizes import SIZES_FILE_NAME, write_sizes
from finetune_trainer.data.row_worker import WorkerSettings
from finetune_trainer.data.rows import DropReason, Place, Split
from finetune_trainer.data.selection import DROPPED, SPLITS, Choice, Numbers
from finetune_trainer.data.similarity import find_contradictions
from finetune_trainer.data.sources import LocalSource, file_notes
from finetune_trainer.data.spool import RowFacts, Spool
from finetune_trainer.errors import UserError

PAIRS_SHOWN = 10
_DECIDED_LATER = {
    DropReason.DUPLICATE: "says the same as {other}",
    DropReason.NEAR_DUPLICATE: "says nearly the same as {other}",
    DropReason.LEAKAGE: "says the same as {other}, which is validated or tested on",
    DropReason.BALANCE: "its class has more rows than balance.maxRatio allows",
}


@dataclass(frozen=True)
class Outcome:
    """Rows, decisions and counts; the tally is completed by `count_dropped`."""

    sources: Sequence[LocalSource]
    settings: WorkerSettings
    encoder: ExampleEncoder
    spool: Spool
    facts: RowFacts
    choice: Choice
    near: NearRepeats | None
    tally: Tally

    def count_dropped(self) -> None:
        """Add to the tally what was decided about rows as a whole."""
        shown = {int(row) for _, rows in self.choice.reasons for row in rows[:PAIRS_SHOWN]}
        excerpts = self._excerpts(shown)
        for reason, rows in self.choice.reasons:
            # Of a copy nobody was told, so it goes without a word.
            for row in (int(row) for row in rows if self.facts.copy[row] == 0):
                other = self.leak_of(row) if reason is DropReason.LEAKAGE else self.other(row)
                why = _DECIDED_LATER[reason].format(other=other) if row in shown else ""
                self.tally.drop(reason, self.place(row), why, excerpt=excerpts.get(row))

    def place(self, row: int) -> Place:
        """Where a row stands."""
        return self.facts.place(row, self.settings.files)

    def other(self, row: int) -> str:
        """The row that this one repeats."""
        return self._named(int(self.choice.repeats[row]))

    def leak_of(self, row: int) -> str:
        """The validation or test row that a training row repeats."""
        return self._named(int(self.choice.leaks[row]))

    def _named(self, row: int) -> str:
        return "" if row == NOTHING else str(self.place(row))

    @property
    def leaked_pairs(self) -> tuple[DuplicatePair, ...]:
        """The first training rows that repeat a validation or test row."""
        alike = self.near.leak_similarity if self.near else {}
        rows = (int(row) for row in self.choice.leaked[:PAIRS_SHOWN])
        return tuple(self._pair(row, self.leak_of(row), alike) for row in rows)

    def _excerpts(self, rows: set[int]) -> dict[int, str]:
        found, start = {}, 0
        for batch in self.spool.batches() if rows else ():
            wanted = (row for row in rows if start <= row < start + batch.num_rows)
            found.update({row: batch.column("excerpt")[row - start].as_py() for row in wanted})
            start += batch.num_rows
        return found

    # --- files -------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Write the rows of each split that has any, and a few of them once more as the sample."""
        for split in SPLITS:
            if split is Split.TRAIN or len(self.choice.rows_of(split)):
                self._write_split(split, folder / split_file_name(split))
        training = PreparedRows(folder / split_file_name(Split.TRAIN))
        count = min(SAMPLE_ROWS, len(training))
        write_rows(folder / SAMPLE_FILE_NAME, (training.row(row) for row in range(count)))
        write_sizes(folder / SIZES_FILE_NAME, training)

    def _write_split(self, split: Split, path: Path) -> None:
        start, number = 0, SPLITS.index(split)
        with PreparedRowsWriter(path) as writer:
            for batch in self.spool.batches():
                chosen = self.choice.split[start : start + batch.num_rows] == number
                if chosen.any():
                    weights = self.choice.weight[start : start + batch.num_rows]
                    writer.add(_final_rows(batch, chosen, weights))
                start += batch.num_rows

    # --- the report --------------------------------------------------------------------------------------------

    def report(self, digest: str) -> DataReport:
        """Build the report."""
        training = self.choice.rows_of(Split.TRAIN)
        return build_report(
            ReportFacts(
                digest=digest,
                tally=self.tally,
                sources=[self._source(number) for number in range(len(self.sources))],
                lengths={split: self.facts.length[self.choice.rows_of(split)] for split in SPLITS},
                learned_tokens=int(self.facts.learned_count[training].sum()),
                samples=list(self._samples(training)),
                decode=self.encoder.decode,
                mask_source=describe_learned(self.settings, self.encoder.explanation),
                template_origin=self.settings.encoder.template_origin,
                labels=self._labels(training),
                duplicates=self._duplicates(),
                leakage=self.leaked_pairs,
                augmented_rows=int(np.count_nonzero(self.facts.copy[training])),
                warnings=tuple(self._warnings()),
            )
        )

    def _source(self, number: int) -> SourceFacts:
        source, row_format = self.sources[number], self.settings.formats[number]
        is_used = (self.facts.source == number) & (self.facts.copy == 0) & (self.choice.split != DROPPED)
        return SourceFacts(
            label=source.label,
            split=source.split,
            format=str(row_format.format) if row_format else "unknown",
            explanation=row_format.explanation if row_format else "no row is an object",
            rows_used=int(np.count_nonzero(is_used)),
            notes=file_notes(source),
            files=tuple(file.label for file in source.files),
            weight=source.settings.weight,
        )

    def _samples(self, training: Numbers) -> Iterator[SampleRow]:
        rows = [int(training[position]) for position in sample_positions(len(training))]
        start = 0
        for batch in self.spool.batches() if rows else ():
            for row in (row for row in rows if start <= row < start + batch.num_rows):
                label = int(self.facts.label[row])
                shown = self._shown_labels[label] if label >= 0 else None
                yield SampleRow(self.place(row), Split.TRAIN, _row(batch, row - start), shown)
            start += batch.num_rows

    def _labels(self, training: Numbers) -> tuple[LabelBalance, ...]:
        labels, originals = self.settings.context.labels, self.facts.copy == 0
        if not np.any(self.facts.label >= 0):
            return ()
        of_training = np.isin(self.facts.source, self._sources_of(Split.TRAIN)) & originals
        read = np.bincount(self.facts.label[of_training & (self.facts.label >= 0)], minlength=len(labels))
        used = training[originals[training] & (self.facts.label[training] >= 0)]
        kept = np.bincount(self.facts.label[used], minlength=len(labels))
        seen = np.bincount(self.facts.label[used], self.choice.weight[used], minlength=len(labels))
        return tuple(
            LabelBalance(
                label=label,
                rows_read=int(read[number]),
                rows_used=int(kept[number]),
                weight=round(float(seen[number]) / max(int(kept[number]), 1), 4),
            )
            for number, label in enumerate(self._shown_labels)
        )

    @cached_property
    def _shown_labels(self) -> tuple[str, ...]:
        """The classes as the rows have them: where texts are redacted, so are the answers."""
        redaction, labels = Cleaner.build(self.settings.preparation).redaction, self.settings.context.labels
        return tuple(redaction.redact_reason(label) for label in labels) if redaction else labels

    def _sources_of(self, split: Split) -> list[int]:
        return [number for number, each in enumerate(self.settings.splits) if each is split]

    def _duplicates(self) -> DuplicateReport | None:
        preparation = self.settings.preparation
        if preparation.duplicates is Duplicates.NONE:
            return None
        rows = [
            int(row)
            for reason, rows in self.choice.reasons
            if reason in (DropReason.DUPLICATE, DropReason.NEAR_DUPLICATE)
            for row in rows[:PAIRS_SHOWN]
        ]
        alike = self.near.similarity if self.near else {}
        return DuplicateReport(
            method=preparation.duplicates.value,
            threshold=None if preparation.duplicates is Duplicates.EXACT else preparation.duplicate_threshold,
            exact=self.tally.rows_dropped_for(DropReason.DUPLICATE),
            near=self.tally.rows_dropped_for(DropReason.NEAR_DUPLICATE),
            pairs=tuple(self._pair(row, self.other(row), alike) for row in rows[:PAIRS_SHOWN]),
        )

    def _pair(self, row: int, other: str, alike: Mapping[int, float]) -> DuplicatePair:
        return DuplicatePair(
            where=str(self.place(row)), repeats=other, similarity=round(alike.get(row, 1.0), 4)
        )

    def _warnings(self) -> Iterator[str]:
        formats = {row_format.format for row_format in self.settings.formats if row_format is not None}
        if self.settings.context.system_prompt and formats == {DataFormat.TEXT}:
            yield "dataset.systemPrompt is not used: every source is plain text, which has no speakers."
        if self.settings.encoder.loss_on is LossOn.ASSISTANT and _ends_no_turn(self.encoder):
            yield "The chat template ends no turn: the model will not learn where to stop."
        if len(self.choice.leaked):
            yield f"{len(self.choice.leaked)} training rows also stand in the validation or test rows."
        for number, source in enumerate(self.sources):
            if not np.any((self.facts.source == number) & (self.choice.split != DROPPED)):
                yield f"{source.field} ({source.label}) gives no row: all that it has are left out."
        if self.tally.rows_truncated:
            share = self.tally.rows_truncated / self.tally.rows_read
            yield f"{self.tally.rows_truncated} rows ({share:.0%}) are cut at maxLength {self.settings.max_length}."
        yield from self._contradictions()

    def _contradictions(self) -> Iterator[str]:
        rows = np.flatnonzero(
            (self.facts.label >= 0) & (self.facts.copy == 0) & (self.choice.split != DROPPED)
        )
        if not len(rows):
            return
        labels = [self.settings.context.labels[label] for label in self.facts.label[rows]]
        found = find_contradictions(self.facts.text_key[rows], labels)
        if found.count:
            row, earlier = (self.place(int(rows[each])) for each in found.pairs[0])
            yield f"{found.count} rows have the text of another row and another label (the first: {row}, {earlier})."


def _ends_no_turn(encoder: ExampleEncoder) -> bool:
    try:
        return encoder.template is not None and not encoder.end_of_turn
    except UserError:
        # A template that renders no conversation: there was none, or its first one would have said so.
        return False


def describe_learned(settings: WorkerSettings, conversations: str) -> str:
    """Say what is learned of each kind of row there is."""
    if settings.context.task is Task.SEQUENCE_CLASSIFICATION:
        return "the label of each text is learned, and no token"
    formats = {row_format.format for row_format in settings.formats if row_format is not None}
    sentences = []
    if formats - {DataFormat.TEXT, DataFormat.PROMPT_COMPLETION}:
        sentences.append(conversations)
    if DataFormat.PROMPT_COMPLETION in formats:
        sentences.append(
            "of prompts in plain text the completion and one end token are learned; lists of messages are conversations"
        )
    if DataFormat.TEXT in formats:
        sentences.append("of plain text every token and one end token are learned")
    return "; ".join(sentences)


def _final_rows(batch: pa.RecordBatch, chosen: np.ndarray, weights: np.ndarray) -> pa.RecordBatch:
    labels = batch.column("label").to_numpy()
    columns = [
        batch.column("input_ids"),
        batch.column("learned"),
        pa.array(labels, pa.int32(), mask=labels < 0),
        batch.column("source"),
        batch.column("number"),
        pa.array(weights, pa.float32()),
    ]
    return pa.record_batch(columns, schema=SCHEMA).filter(pa.array(chosen))


def _row(batch: pa.RecordBatch, row: int) -> TokenizedRow:
    ids = array.array("i", batch.column("input_ids")[row].as_py())
    return TokenizedRow(ids, bytes(batch.column("learned")[row].as_py()))
