"""What the words before a number, and the signs beside it, say it is.

A number alone is ambiguous: `13800138000` may be a phone, an order or an amount of bytes.
"""

from __future__ import annotations

import re

# How far back is looked.
_REACH = 48

# Words that announce a number of another kind, directly before it: "订单号：", "Tracking number: ", "size=". Words that
# people also put before a phone number (快递, 会员, order, member) do so only with "number" after them.
_REFERENCE = re.compile(
    r"""(?ix)
    (?:
        (?: 订单 | 运单 | 单号 | 流水 | 工单 | 型号 | 货号 | 批号 | 款号 | 编号 | 编码 | 序列 | 条码 | 条形码
          | 学号 | 工号 | 准考证 | 税号 | 群号 | 版本 | 验证码 | 时间戳 )
        (?: 编号 | 编码 | 号码 | 号 | 码 )*
      | (?: 快递 | 物流 | 包裹 | 退货 | 发票 | 合同 | 交易 | 凭证 | 批次 | 会员 | 执照 | 图书馆证 | 抽奖 | QQ )
        (?: 编号 | 编码 | 单号 | 号码 | 号 | 码 | 群 )+
      | (?<![a-z])
        (?: (?: order | tracking | invoice | waybill | shipment | parcel | serial | part | item | model | ticket | case
              | reference | ref | transaction | batch | lot | contract | purchase[ ]order | p\.?o\.? | member | student
              | employee )
            [ _-]? (?: numbers? | no\.? | id | code | \# )
          | tracking | waybill | invoice | sku | isbn | issn | ean | upc | gtin | imei | iccid | vin | s/?n | ts
          | seq | pid | oid | rev | count
          | [a-z_]{0,24} (?: size | bytes | offset | length | total | sum | timestamp ) )
    )
    ["']? [ ]* (?: 是 | 为 | is | was | [:：=\#] )* [ ]* ["'(（「]? \Z"""
)
# "Order 4012…" names an order where a card number is in doubt; "to order: 415-555-0132" is still a phone number.
_BARE_ORDER = re.compile(
    r"(?i)(?:(?<![a-z])(?:order|shipment|parcel|po|invoice)[ :#]*|(?:快递|物流|包裹)[ :：]*)\Z"
)

# "13800138000 + 1", "13800138000 bytes", "2*13800138000", "[1, -13800138000]": a quantity. Markup (`**…**`,
# `<td>…</td>`), settings (`phone = …`) and lists (`… / …`) must not look like one.
_QUANTITY_BEFORE = re.compile(
    r"(?:[¥￥$€£×^] ?|[0-9)] ?\* ?|[A-Za-z]\*|[0-9)] [+=] |(?<![A-Za-z])[A-Za-z] \+ |[,(\[=] ?-)\Z"
)
_QUANTITY_AFTER = re.compile(
    r"""(?ix)
    [ ]? (?: 元 | 块钱 | 美元 | 字节 | 比特 | [%％×^] | \* (?: [ ]?[0-9(] | [A-Za-z] ) | \+[ ]+[0-9]
           | \b (?: bytes? | bits? | [kmgt]i?b | usd | cny | rmb | km | kg | m/s ) \b )"""
)

# Somewhere before it, with no other number and no end of a sentence between.
_PHONE_WORD = re.compile(
    r"""(?ix)
    (?: 电话 | 电話 | 電話 | 客服 | 手机 | 手機 | 座机 | 热线 | 熱線 | 传真 | 傳真 | 致电 | 来电 | 回电 | 拨
      | 携帯 | 전화 | 번호 | 휴대폰 | 팩스
      | (?<![a-z])
        (?: tel(?:ephone|efon|efono|éfono)? | phones? | mobile | cell(?:phone)? | call(?:ing|ed)? | fax | ring
          | text(?:ed)? | dial | whatsapp | hotline | handy | t[ée]l(?:[ée]phone)? | num[ée]ro | n[úu]mero
          | ll[áa]ma(?:me|r)? | anrufen | rufen | nummer | телефон | тел
          | (?:my|his|her|our|your|their|contact|phone)[ ]number )
        (?![a-z]) )
    [^0-9\n。；;！？!?]{0,32} \Z"""
)
# Directly before it: this alone makes a local number without area code a phone number.
_PHONE_LABEL = re.compile(
    r"""(?ix)
    (?: 电话 | 电話 | 電話 | 手机 | 手機 | 座机 | 热线 | 传真 | (?<![a-z]) (?: tel | phone | mobile | fax | mob ) )
    (?: 号码 | 号 )? \.? [ ]* (?: 是 | 为 | is | [:：=] )* [ ]* ["']? \Z"""
)
_CARD_WORD = re.compile(
    r"""(?ix)
    (?: 卡号 | 银行卡 | 信用卡 | 储蓄卡 | 借记卡 | 账号 | 账户 | (?<![a-z]) (?: card | visa | account ) )
    [^0-9\n。；;]{0,24} \Z"""
)


def follows_reference(text: str, start: int) -> bool:
    """Whether what stands before names an order, a parcel, a serial number or the like."""
    return _REFERENCE.search(_before(text, start)) is not None


def follows_order(text: str, start: int) -> bool:
    """Whether the bare word order or parcel stands before."""
    return _BARE_ORDER.search(_before(text, start)) is not None


def is_quantity(text: str, start: int, end: int) -> bool:
    """Whether what touches it makes it an amount, a size or a term of a formula."""
    return (
        _QUANTITY_AFTER.match(text, end) is not None
        or _QUANTITY_BEFORE.search(_before(text, start)) is not None
    )


def follows_phone_word(text: str, start: int) -> bool:
    """Whether a word of telephoning stands shortly before, in the same sentence."""
    return _PHONE_WORD.search(_before(text, start)) is not None


def follows_phone_label(text: str, start: int) -> bool:
    """Whether a phone number is announced directly before."""
    return _PHONE_LABEL.search(_before(text, start)) is not None


def follows_card_word(text: str, start: int) -> bool:
    """Whether a word for a card or an account stands shortly before."""
    return _CARD_WORD.search(_before(text, start)) is not None


def _before(text: str, start: int) -> str:
    return text[max(0, start - _REACH) : start]
