"""E-mail addresses, with sub-domains, plus signs and letters of every script.

An address needs a dot in its domain and letters in its last part, so `user@localhost`, `foo@1.2.3` and `@app.route`
are none. A user before a host in a URL (`https://user:pw@host`) and `git@host:path` are none either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.data.redaction.spans import Extent

# Scripts without spaces between words: there, only what stands between boundaries can be told from the sentence.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
# A letter or digit of a script that spaces its words.
_LETTER = rf"[^\W_{_CJK}]"
_LONGEST_LOCAL_PART = 64
_LOCAL_PART = re.compile(rf"(?:{_LETTER}|[._%+'~-])*\Z")
_CJK_LOCAL_PART = re.compile(rf"(?:^|(?<=[\s,.:;，。：；、“”\"'（）()<>《》【】]))[{_CJK}]{{1,8}}\Z")
_DOMAIN = re.compile(
    rf"""(?ix)
    (?: {_LETTER} (?: (?:{_LETTER}|-){{0,61}} {_LETTER} )? \. )+
    (?: xn--[a-z0-9-]+ | (?: (?![0-9]) {_LETTER} ){{2,24}} )
    (?! [0-9A-Za-z] )"""
)
_CJK_DOMAIN = re.compile(
    rf"""(?x)
    (?: [{_CJK}0-9A-Za-z-]{{1,30}} \. )+
    (?: 公司 | 网络 | 網絡 | 中国 | 中國 | 香港 | 台湾 | 台灣 | 在线 | 中文网 | 网址 | 网店 | 商城 | 集团 | 我爱你
      | 公益 | 政务 | コム | みんな | 닷컴 | 한국 )"""
)
_URL_USER = re.compile(r"://[A-Za-z0-9._~!$&'*+=:%-]*\Z")
_REPOSITORY_USERS = frozenset({"git", "hg", "svn"})
# Last parts of file names (`logo@2x.png`), of units of systemd (`user@1000.service`) and of programs (`a@b.shape`).
_NOT_A_DOMAIN = re.compile(
    r"""(?ix) \. (?:
        png | jpe?g | gif | webp | svg | bmp | ico | html? | css | [jt]sx? | json | xml | ya?ml | toml | txt | log | csv
      | tsv | pdf | docx | xlsx | exe | dll | jar | whl | rpm | deb | t?gz | bz2 | xz
      | service | socket | timer | mount | slice | scope
      | weights? | bias | shape | dtype | transpose | reshape | conj ) \Z"""
)


def find_emails(text: str) -> Iterator[Extent]:
    """Where addresses stand."""
    for at in _positions_of_at(text):
        start = _start_of_local_part(text, at)
        domain = _DOMAIN.match(text, at + 1) or _CJK_DOMAIN.match(text, at + 1)
        if start is not None and domain and not _is_something_else(text, start, at, domain):
            yield Extent(start, domain.end())


def _positions_of_at(text: str) -> Iterator[int]:
    at = text.find("@")
    while at != -1:
        yield at
        at = text.find("@", at + 1)


def _start_of_local_part(text: str, at: int) -> int | None:
    # One character more than may be: a longer part is no address.
    before = text[max(0, at - _LONGEST_LOCAL_PART - 1) : at]
    found = _LOCAL_PART.search(before)
    local_part = found[0].lstrip("._%+'~-") if found else ""
    if not local_part:
        cjk = _CJK_LOCAL_PART.search(before)
        local_part = cjk[0] if cjk else ""
    is_valid = 0 < len(local_part) <= _LONGEST_LOCAL_PART and not local_part.endswith(".")
    return at - len(local_part) if is_valid else None


def _is_something_else(text: str, start: int, at: int, domain: re.Match[str]) -> bool:
    if _NOT_A_DOMAIN.search(domain[0]):
        return True
    if text[start:at].lower() in _REPOSITORY_USERS and text[domain.end() : domain.end() + 1] == ":":
        return True
    return _URL_USER.search(text[max(0, at - 256) : at]) is not None
