"""Personal data is replaced, what only looks like it is kept, and nothing of it is left in results, logs or messages."""

from __future__ import annotations

import itertools
import logging
import pickle
from pathlib import Path

import pytest

from finetune_api.spec.preparation import Redaction
from finetune_trainer.data.redaction import PLACEHOLDERS, Redacted, Redactor
from finetune_trainer.data.redaction.measurement import load_cases

ALL = Redactor.build(tuple(Redaction))
CASES = Path(__file__).parents[3] / "data" / "redaction"
LABELLED = [case for name in ("cases", "held_out") for case in load_cases(CASES / f"{name}.jsonl")]

ID_CARD = "110101199003071233"
BANK_CARD = "4111 1111 1111 1111"


def redact(text: str) -> str:
    return ALL.redact(text).text


# --- what stands in its place -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "redacted", "kind"),
    [
        pytest.param("写信到li@example.com。", "写信到[EMAIL]。", Redaction.EMAIL, id="e-mail address"),
        pytest.param("打13800138000找我", "打[PHONE]找我", Redaction.PHONE, id="phone number"),
        pytest.param(f"证件{ID_CARD}。", "证件[ID_CARD]。", Redaction.ID_CARD, id="ID number"),
        pytest.param(f"Visa {BANK_CARD}!", "Visa [BANK_CARD]!", Redaction.BANK_CARD, id="card number"),
        pytest.param("at 203.0.113.7:22", "at [IP_ADDRESS]:22", Redaction.IP_ADDRESS, id="IP address"),
    ],
)
def test_each_kind_has_its_placeholder_and_is_counted(text: str, redacted: str, kind: Redaction) -> None:
    assert ALL.redact(text) == Redacted(redacted, {kind: 1})


def test_every_kind_has_a_placeholder() -> None:
    assert set(PLACEHOLDERS) == set(Redaction)


def test_several_of_a_kind_are_counted() -> None:
    result = ALL.redact("13800138000, 13900139000; a@example.com")
    assert result.text == "[PHONE], [PHONE]; [EMAIL]"
    assert result.counts == {Redaction.PHONE: 2, Redaction.EMAIL: 1}


def test_only_the_chosen_kinds_are_replaced() -> None:
    text = f"a@example.com 13800138000 {ID_CARD} {BANK_CARD} 203.0.113.7"
    for kind in Redaction:
        result = Redactor.build([kind]).redact(text)
        assert result.counts == {kind: 1}
        assert result.text.count("[") == 1


def test_the_order_in_which_kinds_are_named_does_not_matter() -> None:
    assert Redactor.build([Redaction.PHONE, Redaction.EMAIL]) == Redactor.build(
        {Redaction.EMAIL, Redaction.PHONE}
    )


@pytest.mark.parametrize("text", ["", "no numbers here", "没有数字，也没有地址。", "#" * 10_000])
def test_a_text_without_digits_and_at_signs_comes_back_as_it_is(text: str) -> None:
    result = ALL.redact(text)
    assert result.text is text
    assert result.counts == {}


def test_it_travels_to_other_processes() -> None:
    copy = pickle.loads(pickle.dumps(ALL))
    assert copy.redact("13800138000") == pickle.loads(pickle.dumps(ALL.redact("13800138000")))


# --- overlaps and repetition ------------------------------------------------------------------------------------


def test_an_id_number_that_is_also_a_valid_card_number_is_an_id_number() -> None:
    # Gansu's IDs begin with 62, as UnionPay's cards do; this one passes Luhn as well.
    number = "620102199001010257"
    assert redact(number) == "[ID_CARD]"
    assert Redactor.build([Redaction.BANK_CARD]).redact(number).counts == {}


def test_a_phone_number_before_an_at_sign_is_an_address() -> None:
    assert redact("13800138000@example.com") == "[EMAIL]"


def test_two_cards_in_a_row_are_two_cards() -> None:
    assert redact(f"{BANK_CARD} 5555 5555 5555 4444") == "[BANK_CARD] [BANK_CARD]"


def test_a_year_before_a_card_does_not_hide_it() -> None:
    assert redact(f"2024 {BANK_CARD}") == "2024 [BANK_CARD]"


def test_redacting_twice_changes_nothing_more() -> None:
    for case in LABELLED:
        once = redact(case.text)
        assert ALL.redact(once) == Redacted(once, {})


def test_redacting_twice_changes_nothing_more_however_things_touch() -> None:
    pieces = [
        "13800138000",
        "a@b.co",
        BANK_CARD,
        ID_CARD,
        "1.2.3.44",
        "fe80::1",
        "010-65521234",
        "-",
        " ",
        "1",
        "电话",
    ]
    for parts in itertools.product(pieces, repeat=3):
        once = redact("".join(parts))
        assert ALL.redact(once) == Redacted(once, {}), parts


def test_placeholders_in_a_text_are_left_alone() -> None:
    text = "、".join(PLACEHOLDERS.values())
    assert redact(text) == text


# --- what stands around it --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        pytest.param("**13800138000** 找我", "**[PHONE]** 找我", id="bold in Markdown"),
        pytest.param("call *13800138000* now", "call *[PHONE]* now", id="italic in Markdown"),
        pytest.param("_13800138000_", "_[PHONE]_", id="italic with underscores"),
        pytest.param("<td>13800138000</td>", "<td>[PHONE]</td>", id="a cell of HTML"),
        pytest.param("phone = 13800138000", "phone = [PHONE]", id="a setting"),
        pytest.param("17,13800138000,x@example.org", "17,[PHONE],[EMAIL]", id="a row of CSV"),
        pytest.param('{"account":13800138000}', '{"account":[PHONE]}', id="JSON"),
        pytest.param("13800138000 / 13900139000", "[PHONE] / [PHONE]", id="one or the other"),
        pytest.param("手机13800138000VX同号", "手机[PHONE]VX同号", id="letters after an announced number"),
        pytest.param("号码　１３８　００１３　８０００", "号码　[PHONE]", id="full width"),
        pytest.param("138\u00a00013\u00a08000", "[PHONE]", id="no-break spaces"),
        pytest.param("138\u201100138000", "[PHONE]", id="a no-break hyphen"),
        pytest.param("会员13800138000要退款", "会员[PHONE]要退款", id="a member is not a member's number"),
        pytest.param("Ref: +1 415 555 0132", "Ref: [PHONE]", id="a country code says more than a reference"),
        pytest.param("to order: 1-800-555-0199", "to order: [PHONE]", id="ordering by phone"),
        pytest.param("1-415-555-0132x204", "[PHONE]", id="an extension"),
        pytest.param("Telefon: +1.4155550132", "Telefon: [PHONE]", id="as registries write it"),
        pytest.param(
            "https://example.com，邮箱a@example.org", "https://example.com，邮箱[EMAIL]", id="after a link"
        ),
        pytest.param("“a@example.org”", "“[EMAIL]”", id="quoted address"),
        pytest.param("it's\na@example.org\n", "it's\n[EMAIL]\n", id="an address on its own line"),
        pytest.param(f"{ID_CARD[:6]} 1990 0307 1233", "[ID_CARD]", id="an ID number in fours"),
        pytest.param("4111 1111 1111 1111 737", "[BANK_CARD] 737", id="a card and its CVV"),
        pytest.param("IPv6:2001:db8::1", "IPv6:[IP_ADDRESS]", id="IPv6 after its name"),
        pytest.param("http://[2001:db8::1]:80/", "http://[[IP_ADDRESS]]:80/", id="IPv6 in a link"),
        pytest.param("192.168.1.5-192.168.1.9", "[IP_ADDRESS]-[IP_ADDRESS]", id="a range"),
        pytest.param("10.0.0.0/8", "[IP_ADDRESS]/8", id="a network"),
        pytest.param("ip.addr == 192.168.1.5", "ip.addr == [IP_ADDRESS]", id="a comparison"),
        pytest.param("IP 1.2.3.4", "IP [IP_ADDRESS]", id="small numbers that are called an address"),
    ],
)
def test_it_is_recognised_in(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("order_id=13800138000", id="an order's number in code"),
        pytest.param("会员号13800138000", id="a member's number"),
        pytest.param("13800138000 bytes", id="a size"),
        pytest.param("13800138000元", id="a price"),
        pytest.param("2 * 13800138000", id="a factor"),
        pytest.param("[1.5, -13800138000]", id="a negative number"),
        pytest.param("[138.35694885, 157.84558105]", id="decimals"),
        pytest.param("x = 3.76900557+4.06069723j", id="a complex number"),
        pytest.param("sin(x) +1.4142135623", id="a term with decimals"),
        pytest.param("+ 2018-04-26T00:49:08", id="an added line of a diff"),
        pytest.param("@rpc.functions.async_execution\n@torch.jit.script", id="two decorators"),
        pytest.param("10086、95588、110", id="short service numbers"),
        pytest.param("Fixes since 1.5.6.5", id="a release"),
        pytest.param("§ 22.1.4.1", id="a section"),
        pytest.param("1.2.3.4 System overview", id="a heading"),
        pytest.param("foo==4.25.3.1", id="a pinned package"),
        pytest.param("127.0.0.1, ::1, 0.0.0.0, 255.255.255.0", id="addresses of nobody"),
        pytest.param("02:1a:2b:ff:fe:3c:4d:5e", id="a hardware address"),
        pytest.param("std::vector, dead::beef, 10:20:30", id="colons"),
        pytest.param("file@1.txt, logo@2x.png", id="file names"),
        pytest.param("https://user:pw@host.example.com/", id="a user in a link"),
        pytest.param("z***@example.com, 138****8000", id="masked already"),
        pytest.param("4111 1111 1111 1112", id="a card number with a wrong check digit"),
        pytest.param("110101199003071234", id="an ID number with a wrong check digit"),
        pytest.param("4111111111111111.00", id="an amount with decimals"),
        pytest.param("0x4111111111111111", id="hexadecimal"),
        pytest.param("4222222222222 rows", id="13 digits that nobody calls a card"),
    ],
)
def test_it_is_left_alone(text: str) -> None:
    assert ALL.redact(text) == Redacted(text, {})


def test_thirteen_digits_that_are_called_a_card_are_one() -> None:
    assert redact("old Visa card 4222222222222") == "old Visa card [BANK_CARD]"


# --- nothing is left of it --------------------------------------------------------------------------------------


def test_what_was_removed_is_in_no_log_no_output_and_no_representation(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    canaries = [
        "canary.7f3a@example.com",
        "+1 415 555 0132",
        "13800138000",
        ID_CARD,
        BANK_CARD,
        "203.0.113.57",
    ]
    with caplog.at_level(logging.NOTSET):
        result = ALL.redact(" | ".join(canaries))
        shown = [repr(result), str(result), repr(ALL), repr(ALL.find(" | ".join(canaries)))]
    printed = capfd.readouterr()
    for canary in canaries:
        for place in (*shown, caplog.text, printed.out, printed.err):
            assert canary not in place
    assert sum(result.counts.values()) == len(canaries)


def test_no_labelled_stretch_survives_unless_the_measurement_reports_it() -> None:
    for case in LABELLED:
        spans = set(ALL.find(case.text))
        for span in spans & set(case.spans):
            assert case.text[span.start : span.end] not in redact(case.text)
