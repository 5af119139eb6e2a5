"""Phrases that messages to the user share."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from traceback import TracebackException

FINDINGS_FROM = ".npz, .csv, medmnist:NAME or module:callable"  # sources that can have several labels per image
COLUMNS_FROM = ".npz, .csv or module:callable"  # sources that can say more about an image than its label
_MOST_SHOWN = 60
_MOST_LISTED = 200  # letters of a name; above those of labels, paths and weights
# Controls but tab and newline, line separators, bidirectional controls, surrogates, and what XML calls noncharacters.
_UNSHOWABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    + "".join(rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(17))
    + "]"
)


def did_you_mean(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str:
    """`; did you mean 'pgd'?`, or nothing if no known word is close: 1 is the word itself."""
    originals = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), originals, n=1, cutoff=likeness)
    return f"; did you mean {originals[close[0]]!r}?" if close else ""


def listed(words: Iterable[object], *, limit: int = 10) -> str:
    """`a, b, c and 4 more`; `nothing` if there are none."""
    every = list(words)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return (", ".join(printable(brief(str(word))) for word in every[:limit]) or "nothing") + more


def brief(text: str) -> str:
    """A text, cut where it is longer than any honest name: a file may hold names of megabytes."""
    return text if len(text) <= _MOST_LISTED else text[:_MOST_LISTED] + "…"


def distinct(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """The names, in order, with a number added if one is taken: no two differ only in upper and lower case."""
    found, used = list[str](), {name.casefold() for name in taken}
    for plain in names:
        name, number = plain, 2
        while name.casefold() in used:
            name, number = f"{plain}-{number}", number + 1
        found.append(name)
        used.add(name.casefold())
    return found


def visible(text: str) -> str:
    """The text with all that cannot be shown, or that changes how the rest is shown, written as an escape."""
    plain = text.replace("\r\n", "\n")
    return _UNSHOWABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), plain)


def printable(text: str) -> str:
    """A name that somebody chose, made visible on one line."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def behind_bars(text: str) -> list[str]:
    """The lines of a text made visible, all but the first behind a bar.

    Without a bar, what a stranger's file put into it could begin a line as CI servers' commands begin.
    """
    first, *others = visible(text).strip().split("\n")
    return [first, *(f"| {line}".rstrip() for line in others)]


_SPELT = str.maketrans({"ε": "eps", "∞": "inf", "─": "-", "≥": ">=", "≤": "<=", "×": "x", "·": "*", "…": "..."})


def as_output(text: str) -> str:
    """A text as the process's output can show it: what its encoding lacks is spelt out, or escaped."""
    encoding = getattr(sys.__stdout__, "encoding", None) or "utf-8"
    return "".join(_spelt(letter, encoding) for letter in text)


def _spelt(letter: str, encoding: str) -> str:
    """The letter itself if the encoding has it, so that parts of a text are shown as the whole would be."""
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return letter.translate(_SPELT).encode(encoding, errors="backslashreplace").decode(encoding)
    return letter


def last_line(error: BaseException) -> str:
    """What a traceback would end with, type and message, as one line of at most 300 characters; without notes."""
    told = TracebackException(type(error), error, None, compact=True)
    told.__notes__ = None  # they would be the last lines
    line = " ".join(list(told.format_exception_only())[-1].split())
    return line if len(line) <= 300 else _to_a_word(line[:299]) + "…"


def shortened(line: str, longest: int) -> str:
    """The beginning and the end of a long line, cut between words where there are any."""
    if len(line) <= longest:
        return line
    begins, ends = line[: longest // 2], line[3 - longest // 2 :]
    return f"{_to_a_word(begins)} … {_to_a_word(ends[::-1])[::-1]}"


def _to_a_word(text: str) -> str:
    """A text that was cut, without the word that it ends in, unless that is most of it."""
    whole = text.rpartition(" ")[0].rstrip()
    return whole if 2 * len(whole) > len(text) else text


def shown(value: object) -> str:
    """A value as a message quotes it: short, on one line, and as it was typed."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return f"a {'mapping' if isinstance(value, dict) else 'list'}"
    text = value if isinstance(value, str) else str(value)
    if len(text) > _MOST_SHOWN:
        text = text[:_MOST_SHOWN] + "…"
    return repr(text) if isinstance(value, str) else text


def plural(count: int, noun: str) -> str:
    """`1 gate`, `2 gates`, `1,234 gates`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
