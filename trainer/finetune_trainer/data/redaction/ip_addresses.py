"""IPv4 and IPv6 addresses, without port, prefix length or zone.

Kept, because they point at nobody: loopback (127.0.0.0/8, ::1), the unspecified address (0.0.0.0, ::) and netmasks
(255.…). Four numbers that are called a version, a section or an object identifier are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv6Address

from finetune_trainer.data.redaction.spans import Extent

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(
    rf"(?<![0-9_.])(?<![A-Za-z]-){_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}(?![0-9A-Za-z_]|\.[0-9])"
)
_IPV6 = re.compile(
    r"""(?x)
    (?: (?<![0-9A-Za-z_:.]) | (?<=[g-zG-Z]:) | (?<=v6:) )
    [0-9A-Fa-f]{0,4} (?: :{1,2} [0-9A-Fa-f]{1,4} ){1,7} (?: : [0-9]{1,3} (?:\.[0-9]{1,3}){3} )? (?: :: )?
    (?! [0-9A-Za-z_] | \.[0-9] | :[0-9A-Fa-f:] )"""
)
# "version 1.2.3.4", "AssemblyVersion("2.0.1.7")", "foo==1.2.3.4", "nginx/1.2.3.4", "第3.2.1.4", "OID 1.3.6.1"
_VERSION_BEFORE = re.compile(
    r"""(?ix)
    (?: (?: version | firmware | driver | release | revision | build | section | chapter | clause | paragraph | article
          | theorem | lemma | figure | table | appendix | (?<![a-z]) (?: ver | rev | sec | fig | para | oid | v | r )
          | § | 版本 | 固件 | 驱动 | 章节 | 版 | 第 )
        (?: number | 号 | 升级 | 更新 )* [\s.:：=("'是为到至]*
      | (?<!addr) (?<!host) (?<!src) (?<!dst) (?<!ip) (?<=[a-z0-9_\]]) [=<>~!]= | [\^~]
      | [A-Za-z]/
    ) \Z"""
)
_VERSION_AFTER = re.compile(r"\s*(?:小?节|章|条|款|版)")
_LETTER_BEFORE = re.compile(r"[A-Za-z]\Z")
_IP_BEFORE = re.compile(r"(?i)(?<![a-z])ip(?:v4)?\Z")
# Four small numbers are a version or a section nearly always, and an address hardly ever (20 of 256, four times over),
# so they count only where an address is spoken of. Private 10.… addresses are small by nature.
_LARGEST_SMALL_NUMBER = 20
_ADDRESS_BEFORE = re.compile(
    r"""(?ix)
    (?: // | @ | \[
      | ip ["']? [ ]* [:=] [ "']*
      | (?: (?<![a-z]) (?: ip | (?:name)?server | host(?:name)? | dns | addr(?:ess)? | remote | gateway | client | peer
                         | node | router | subnet | network | visitor | ping | ssh | telnet | traceroute
                         | log(?:ged)?[ -]?in | connect(?:ed|ion)? | listen(?:ing)? | block(?:ed)? )
          | 地址 | 服务器 | 主机 | 网关 | 登录 | 登陆 | 访问 | 来自 | 从 | 客户端 | 机器 | 解析 | 域名 )
        [^0-9\n。；;]{0,16}
    ) \Z"""
)
_ADDRESS_AFTER = re.compile(r":[0-9]{2,5}(?![0-9])|/[0-9]{1,2}(?![0-9])|\s*(?:登录|登陆|访问|port\b)")
_REACH = 32


def find_ip_addresses(text: str) -> Iterator[Extent]:
    """Where addresses stand."""
    if text.count(".") >= 3:
        for found in _IPV4.finditer(text):
            if _identifies(found[0]) and not _is_numbering(text, found):
                yield Extent(*found.span())
    if text.count(":") >= 2:
        for found in _IPV6.finditer(text):
            if _is_ipv6(found[0]):
                yield Extent(*found.span())


def _identifies(address: str) -> bool:
    return not address.startswith(("127.", "255.")) and address != "0.0.0.0"  # noqa: S104 - nothing is bound here


def _is_numbering(text: str, found: re.Match[str]) -> bool:
    before = text[max(0, found.start() - _REACH) : found.start()]
    if _VERSION_BEFORE.search(before) or _VERSION_AFTER.match(text, found.end()):
        return True
    if _LETTER_BEFORE.search(before):
        return not _IP_BEFORE.search(before)
    return _is_small(found[0]) and not (
        _ADDRESS_BEFORE.search(before) or _ADDRESS_AFTER.match(text, found.end())
    )


def _is_small(numbers: str) -> bool:
    parts = [int(part) for part in numbers.split(".")]
    return parts[0] != 10 and max(parts) <= _LARGEST_SMALL_NUMBER


def _is_ipv6(written: str) -> bool:
    """Whether it parses, and is no clock time, hardware address (EUI-64) or `dead::beef` of a program."""
    try:
        address = IPv6Address(written)
    except AddressValueError:
        return False
    groups = [group for group in written.split(":") if group]
    if address.is_loopback or address.is_unspecified or not any(map(str.isdigit, written)):
        return False
    if len(groups) == 8:
        return any(len(group) != 2 for group in groups)
    return len(groups) >= 3 or len(groups[0]) == 4
