"""Data reports as prepare makes them, of bilingual support rows: plain ones, and one in which everything happened."""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from finetune_trainer.data.batches import DataOrder
from finetune_trainer.data.prepared import TokenizedRow
from finetune_trainer.data.report import (
    DataReport,
    DuplicatePair,
    DuplicateReport,
    LabelBalance,
    ReportFacts,
    SampleRow,
    SourceFacts,
    Tally,
    add_forecast,
    add_refusal,
    build_report,
)
from finetune_trainer.data.report.forecast import forecast_run
from finetune_trainer.data.rows import DropReason, Place, Split

TRAIN_FILE = "s3://support/tickets/2025-q4.jsonl"
RETURNS_FILE = "s3://support/exports/returns.csv.gz"
TEMPLATE_ORIGIN = "s3://models/qwen3-0.6b (chat_template.jinja)"
MASK_SOURCE = "TRL's training template for Qwen3, of which the model's own is a variant: the assistant's tokens and <|im_end|>"


def make_row(*parts: str) -> TokenizedRow:
    """A row of one token a character; every second part is learned."""
    ids = array.array("i", [ord(character) for part in parts for character in part])
    learned = b"".join(bytes([number % 2]) * len(part) for number, part in enumerate(parts))
    return TokenizedRow(ids, learned)


def decode(token_ids: Sequence[int]) -> str:
    """The text of such a row."""
    return "".join(chr(token) for token in token_ids)


def make_chat(*turns: str, system: str | None = None) -> TokenizedRow:
    """A conversation in ChatML, the user first; the assistant's turns are learned."""
    parts = [f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""]
    for number, turn in enumerate(turns):
        if number % 2:
            parts[-1] += "<|im_start|>assistant\n"
            parts += [f"{turn}<|im_end|>", "\n"]
        else:
            parts[-1] += f"<|im_start|>user\n{turn}<|im_end|>\n"
    return make_row(*parts)


def place(number: int, file: str = TRAIN_FILE, unit: Any = "line") -> Place:
    """A line of the training file."""
    return Place(file, unit, number)


def make_facts(**changes: Any) -> ReportFacts:
    """Facts of a small data set with which nothing was wrong."""
    tally = Tally()
    for _ in range(4):
        tally.read(0)
    rows = [make_chat("Where is my parcel?", "order_status"), make_chat("我要退款", "refund")] * 2
    facts = ReportFacts(
        digest="3f" * 32,
        tally=tally,
        sources=[
            SourceFacts(
                TRAIN_FILE,
                Split.TRAIN,
                "Messages",
                "recognised as Messages: the first row has a list of turns in column messages",
                rows_used=4,
                files=(TRAIN_FILE,),
            )
        ],
        lengths={Split.TRAIN: array.array("q", [len(row.input_ids) for row in rows])},
        learned_tokens=sum(row.learned_count for row in rows),
        samples=[SampleRow(place(number + 1), Split.TRAIN, row) for number, row in enumerate(rows)],
        decode=decode,
        mask_source=MASK_SOURCE,
        template_origin=TEMPLATE_ORIGIN,
    )
    return replace(facts, **changes)


def make_data_report(**changes: Any) -> DataReport:
    """The report of these facts."""
    return build_report(make_facts(**changes))


# --- one in which everything happened --------------------------------------------------------------------------


def make_eventful_report() -> DataReport:
    """Drops of every reason, duplicates, leakage, classes, copies, redaction, a forecast, Chinese and English."""
    lengths = _lognormal_lengths(9_412)
    facts = make_facts(
        tally=_eventful_tally(),
        sources=_eventful_sources(),
        lengths={Split.TRAIN: lengths, Split.VALIDATION: lengths[:480], Split.TEST: lengths[:300]},
        learned_tokens=int(lengths.sum() * 0.4127),
        samples=_eventful_samples(),
        labels=_LABELS,
        duplicates=DuplicateReport(
            method="MinHash",
            threshold=0.85,
            exact=121,
            near=89,
            pairs=(
                DuplicatePair(where=str(place(118)), repeats=str(place(17)), similarity=1.0),
                DuplicatePair(where=str(place(902)), repeats=str(place(344)), similarity=0.91),
                DuplicatePair(
                    where=str(place(57, RETURNS_FILE, "row")), repeats=str(place(23)), similarity=0.87
                ),
            ),
        ),
        leakage=(
            DuplicatePair(where=str(place(4021)), repeats="s3://support/test.jsonl line 12", similarity=1.0),
        ),
        augmented_rows=412,
        warnings=_WARNINGS,
    )
    forecast = forecast_run(
        lengths, DataOrder(len(lengths), 32, seed=7), total_steps=885, micro_batch_tokens=4096
    )
    return add_forecast(build_report(facts), forecast)


_WARNINGS = (
    "Class promo_code has 38 rows and order_status 2,210: 58 times as many. preparation.balance {maxRatio: 3} evens "
    "them out by showing the small classes more often.",
    "61 rows are longer than maxLength 512 and were left out. Raise dataset.preparation.maxLength to keep them.",
)

_LABELS = tuple(
    LabelBalance(label=label, rows_read=read, rows_used=used, weight=weight)
    for label, read, used, weight in (
        ("order_status", 2210, 2101, 1.0),
        ("refund", 1842, 1790, 1.0),
        ("delivery_delay", 1605, 1548, 1.0),
        ("change_address", 1201, 1163, 1.0),
        ("reset_password", 988, 941, 1.0),
        ("invoice", 702, 689, 1.02),
        ("退换货", 540, 522, 1.34),
        ("warranty", 311, 300, 2.33),
        ("human_agent", 120, 111, 6.31),
        ("promo_code", 38, 36, 19.45),
    )
)


def _lognormal_lengths(rows: int) -> Any:
    drawn = np.random.RandomState(11).lognormal(4.5, 0.6, rows)
    return np.clip(drawn, 14, 512).astype(np.int64)


_DROPS: tuple[tuple[DropReason, int, tuple[tuple[Place, str, str | None, str | None], ...]], ...] = (
    (
        DropReason.INVALID,
        33,
        (
            (place(41), "not JSON: expecting ',' delimiter at column 88", None, None),
            (place(212), "no assistant turn: nothing could be learned from it", "messages", None),
            (
                place(873),
                "turn 3 has role 'agent'; roles are system, user, assistant and tool",
                "messages",
                None,
            ),
            (place(19, RETURNS_FILE, "row"), "the label is empty", "label", None),
        ),
    ),
    (
        DropReason.TOO_LONG,
        61,
        (
            (
                place(77),
                "1,204 tokens, maxLength is 512",
                None,
                "Hello, I am writing about the three orders that I placed in November. The first one, with the blue "
                "kettle, arrived broken, and the second one never arrived at all although the tracking page says so",
            ),
            (
                place(1309),
                "688 tokens, maxLength is 512",
                None,
                "你好，我在上个月一共下了三个订单，第一个订单里的电热水壶到货的时候已经碎了，第二个订单一直显示运输中，"
                "第三个订单的发票抬头写错了，麻烦帮我一起处理一下，谢谢。以下是每个订单的详细情况和照片说明。",
            ),
        ),
    ),
    (DropReason.TOO_SHORT, 12, ((place(5), "1 character, minCharacters is 2", None, "?"),)),
    (DropReason.NOISE, 7, ((place(640), "8 % letters or digits", None, "====>>> *** <<<===="),)),
    (
        DropReason.REGEX,
        4,
        ((place(88), "preparation.regex[1] matches", None, "[auto-reply] I am out of office until Monday"),),
    ),
    (DropReason.NOTHING_TO_LEARN, 2, ((place(9), "no learned token among its first 512", None, None),)),
    (
        DropReason.DUPLICATE,
        121,
        (
            (place(118), f"repeats {TRAIN_FILE} line 17", None, "我的快递到哪里了？已经五天没有更新了。"),
            (
                place(131),
                f"repeats {TRAIN_FILE} line 90",
                None,
                "How do I get an invoice with my tax number?",
            ),
            (
                place(150),
                f"repeats {TRAIN_FILE} line 4",
                None,
                "Tracking says delivered, but nothing is here.",
            ),
        ),
    ),
    (
        DropReason.NEAR_DUPLICATE,
        89,
        (
            (
                place(902),
                f"0.91 like {TRAIN_FILE} line 344",
                None,
                "Hi, I forgot my password again, mail me at [EMAIL] or call [PHONE]",
            ),
        ),
    ),
    (
        DropReason.LEAKAGE,
        1,
        (
            (
                place(4021),
                "s3://support/test.jsonl line 12 has it too",
                None,
                "Can I still return a <b>sale</b> item?",
            ),
        ),
    ),
)


def _eventful_tally() -> Tally:
    tally = Tally()
    for source, rows in enumerate((8_934, 800, 480, 300)):
        for _ in range(rows):
            tally.read(source)
    for reason, rows, examples in _DROPS:
        for number in range(rows):
            where, why, column, excerpt = examples[number % len(examples)]
            moved = Place(where.file, where.unit, where.number + 31 * (number // len(examples)))
            tally.drop(reason, moved, why, column=column, excerpt=excerpt)
    for step, rows, times in (("html", 214, 3), ("redact.Email", 88, 1), ("redact.Phone", 131, 1)):
        for _ in range(rows):
            tally.change(step, times)
    for _ in range(1_402):
        tally.change("fullWidth", 2)
    tally.change("regex[0]", 5)
    return tally


def _eventful_sources() -> list[SourceFacts]:
    return [
        SourceFacts(
            "s3://support/tickets/",
            Split.TRAIN,
            "Messages",
            "recognised as Messages: all of the first 32 rows have a list of {role, content} in column messages",
            rows_used=8_614,
            files=tuple(f"s3://support/tickets/2025-q{number}.jsonl" for number in range(1, 5)),
        ),
        SourceFacts(
            RETURNS_FILE,
            Split.TRAIN,
            "Classification",
            "recognised as Classification: columns text and label, 10 different labels in the first 32 rows; shown to "
            "the model as an instruction that lists the labels",
            rows_used=790,
            notes=("gzip", "read as GB18030"),
            files=(RETURNS_FILE,),
            weight=2.0,
        ),
        SourceFacts(
            "hf://support-org/bilingual-tickets:zh at 1f3a9c2",
            Split.VALIDATION,
            "ShareGPT",
            "named by dataset.validation.sources[0].format",
            rows_used=480,
            files=("data/validation-00000-of-00001.parquet",),
        ),
        SourceFacts(
            "s3://support/test.jsonl",
            Split.TEST,
            "InputTarget",
            "recognised as InputTarget: columns query and response",
            rows_used=300,
            files=("s3://support/test.jsonl",),
        ),
    ]


def _eventful_samples() -> list[SampleRow]:
    system = "你是一家网店的客服助手。回答要简短、礼貌。"
    return [
        SampleRow(
            place(1),
            Split.TRAIN,
            make_chat("收件地址改成建设北街41号，谢谢。急！", "好的，地址已经改好了。", system=system),
        ),
        SampleRow(
            place(2207),
            Split.TRAIN,
            make_chat(
                "My new password is not accepted, it says too short.",
                "A password needs at least eight characters, one of them a digit. Shall I send you a new link?",
                "Yes please, to [EMAIL].",
                "Done. The link works for 30 minutes.",
            ),
        ),
        SampleRow(
            place(12, RETURNS_FILE, "row"),
            Split.TRAIN,
            make_chat(
                "Name the class of the text. Classes: order_status, refund, invoice, 退换货.\n\n拆开的时候玻璃已经碎了。",
                "退换货",
            ),
        ),
        SampleRow(
            place(4410),
            Split.TRAIN,
            make_chat(
                'Does this run?\n\n<script>document.title = "changed"</script>\n<img src="https://example.com/x.png">',
                "No: it is text like any other.\n\n| id | state |\n|---|---|\n| 7 | shipped |",
            ),
        ),
        SampleRow(
            place(8903),
            Split.TRAIN,
            make_chat(
                "查一下88213407有没有出库 📦",
                '<think>\nThe number is an order. I call the tool.\n</think>\n\n<tool_call>\n{"name": "find_order", '
                '"arguments": {"id": "88213407"}}\n</tool_call>',
            ),
        ),
    ]


# --- one that attacks its reader -------------------------------------------------------------------------------

# Each would be seen by the browser: a changed title, an element, a request, a page wider than the window.
HOSTILE_TEXT = (
    '"><script>document.title = "attacked"</script></pre></style><img src="https://attack.example/x.png" '
    "onerror=\"document.title='attacked'\"><base href='https://attack.example/'>{{ 7 * 7 }}\u202e\x00&lt;b&gt;"
)
_WIDE = "W" * 600


def make_hostile_report() -> DataReport:
    """Every text that can come from data or from the job is hostile, and very wide."""
    text = HOSTILE_TEXT + _WIDE
    tally = Tally()
    for _ in range(2):
        tally.read(0)
    tally.drop(DropReason.INVALID, Place(text, "line", 1), text, column=text, excerpt=HOSTILE_TEXT)
    tally.change(text, 1)
    row = make_row(text, text)
    pair = DuplicatePair(where=text, repeats=text, similarity=1.0)
    return make_data_report(
        digest=text,
        tally=tally,
        sources=[
            SourceFacts(
                text, Split.TRAIN, text, text, rows_used=1, notes=(text,), files=(text, text), weight=1.5
            )
        ],
        lengths={Split.TRAIN: [len(row.input_ids)]},
        learned_tokens=row.learned_count,
        samples=[SampleRow(Place(text, "line", 2), Split.TRAIN, row, label=text)],
        mask_source=text,
        template_origin=text,
        labels=(LabelBalance(label=text, rows_read=2, rows_used=1, weight=1.25),),
        duplicates=DuplicateReport(method=text, threshold=0.5, exact=1, near=0, pairs=(pair,)),
        leakage=(pair,),
        warnings=(text,),
    )


# --- one of data that are refused ------------------------------------------------------------------------------


def make_refused_report() -> DataReport:
    """No row is left: there are no lengths and no samples."""
    tally = Tally()
    for line in (1, 2):
        tally.read(0)
        tally.drop(DropReason.INVALID, place(line), "not JSON (NaN is not a JSON value)")
    report = make_data_report(
        tally=tally,
        sources=[SourceFacts(TRAIN_FILE, Split.TRAIN, "unknown", "no row is an object", rows_used=0)],
        lengths={Split.TRAIN: []},
        learned_tokens=0,
        samples=[],
    )
    return add_refusal(
        report, f"No row of 2 is left to train on: 2 invalid (the first: {TRAIN_FILE} line 1)."
    )
