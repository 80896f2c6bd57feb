"""Between ranks and uploader: orders and reports appear whole, and what cannot be read is not there."""

from __future__ import annotations

from pathlib import Path

from finetune_trainer.spool import Spool, UploadReport, UploadState
from tests.builders.checkpoints import make_facts, make_order

ORDER = make_order(make_facts(10), {"state.json": Path("/work/state.json")}, step_ended=1000.5)
NEXT = make_order(make_facts(20, eval_loss=0.5), {"state.json": Path("/work/state.json")})


def test_an_order_stands_until_it_is_withdrawn_or_replaced(tmp_path: Path) -> None:
    spool, uploaders = Spool(tmp_path), Spool(tmp_path)
    assert uploaders.order() is None
    spool.place(ORDER)
    assert uploaders.order() == ORDER
    spool.place(NEXT)
    assert uploaders.order() == NEXT
    spool.withdraw()
    assert uploaders.order() is None
    spool.withdraw()


def test_reports_come_back_as_they_were_written(tmp_path: Path) -> None:
    spool, uploaders = Spool(tmp_path), Spool(tmp_path)
    assert spool.report() == UploadReport()
    report = UploadReport(order=3, state=UploadState.WAITING, message="It is away.", waiting_since=12.5)
    uploaders.write_report(report)
    assert spool.report() == report


def test_a_closed_spool_stays_closed(tmp_path: Path) -> None:
    assert not Spool(tmp_path).is_closed
    Spool(tmp_path).close()
    assert Spool(tmp_path).is_closed


def test_what_cannot_be_read_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "order.json").write_bytes(b'{"number": 1, "fi')
    (tmp_path / "report.json").write_bytes(b"")
    assert Spool(tmp_path).order() is None
    assert Spool(tmp_path).report() == UploadReport()


def test_nothing_is_left_beside_orders_and_reports(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.place(ORDER)
    spool.write_report(UploadReport())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["order.json", "report.json"]
