"""Which encoding a file is in, and text out of its bytes without ever losing a good row to a bad byte.

Bytes that do not fit the file's encoding become lone surrogates (PEP 383); `mend_surrogates` tries to read them as
Windows-1252, the usual stray encoding in help-desk exports, and gives up where that reads like nonsense.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

from triagekit.data.byte_streams import BrokenSource

SAMPLE_BYTES = 1 << 20
_EVIDENCE = 8
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ESCAPED = re.compile("[\udc80-\udcff]")
SURROGATES = re.compile("[\ud800-\udfff]")
_ORDINARY_1252 = re.compile(
    "^[\x00-\x7fÀ-ÖØ-ÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýŠšŽžŒœŸ€‚„…†•–—‘’“”™«»¡¿£¥§©®°±²³´µ·¹º¼½¾\xa0\xad]*$"
)

# "cafÃ" is the first half of a cut UTF-8 character, not a word.
_CAPITAL_INSIDE_WORD = re.compile("[a-zà-ÿ][À-Þ]")


def split_sample(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes (about 1 MiB) for looking at, and an iterator over everything, those included."""
    taken: list[bytes] = []
    size = 0
    broken: list[BrokenSource] = []
    while size < SAMPLE_BYTES:
        try:
            block = next(chunks)
        except StopIteration:
            break
        except BrokenSource as error:
            broken.append(error)
            break
        taken.append(block)
        size += len(block)

    def everything() -> Iterator[bytes]:
        yield from taken
        if broken:
            raise broken[0]
        yield from chunks

    return b"".join(taken), everything()


def detect_encoding(sample: bytes) -> tuple[str, int]:
    """(encoding, length of the byte-order mark) of a file that begins with `sample`."""
    for mark, name in _BOMS:
        if sample.startswith(mark) and (name == "utf-8" or _is_wide(sample, name)):
            return name, len(mark)
    without_mark = _utf16_without_mark(sample)
    if without_mark:
        return without_mark, 0
    decoded = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(sample, final=False)
    if decoded.isascii():
        return "utf-8", 0
    wrong = len(_ESCAPED.findall(decoded))
    right = sum(1 for character in decoded if character > "\x7f") - wrong
    if wrong <= right or wrong < _EVIDENCE:
        return "utf-8", 0
    return _detected(sample), 0


def _is_wide(sample: bytes, encoding: str) -> bool:
    """Whether a wide encoding's mark is meant: two stray bytes look the same, but then the rest is no wide text.

    Every wide export has spaces, line ends, digits or brackets; narrow text read as wide has none but by chance, beside
    NUL characters.
    """
    try:
        text = codecs.getincrementaldecoder(encoding)("surrogatepass").decode(sample, final=False)
    except UnicodeDecodeError:
        return False
    nul = text.count("\0")
    plain = sum(1 for character in text if character < "\x80") - nul
    return plain > 4 * nul


def _utf16_without_mark(sample: bytes) -> str:
    head = sample[:4096]
    pairs = len(head) // 2
    if pairs < 4:
        return ""
    even, odd = head[0 : 2 * pairs : 2].count(0) / pairs, head[1 : 2 * pairs : 2].count(0) / pairs
    if odd > 0.4 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 and odd < 0.05 else ""


def _detected(sample: bytes) -> str:
    from charset_normalizer import from_bytes

    telling = b"\n".join(line for line in sample.split(b"\n") if not _is_utf8(line))[: 1 << 16]
    matches = from_bytes(telling)
    # A detector calls noise UTF-16; what is wide has been recognised before.
    narrow = [match for match in matches if not match.encoding.startswith("utf")]
    if not narrow:
        return "utf-8"
    best = narrow[0]
    # Windows-1252 and its neighbours (cp1250, latin-*, mac-*) look alike to a detector; exports are nearly always 1252.
    windows = next((match for match in narrow if match.encoding == "cp1252"), None)
    if windows is not None and _ORDINARY_1252.match(str(windows)) and windows.chaos <= best.chaos + 0.02:
        return "cp1252"
    # The Macintosh code pages differ from the Windows ones in a few letters only, and are far rarer.
    usual = (match for match in narrow if match.chaos <= best.chaos + 0.02 and not match.encoding.startswith("mac_"))
    return str(next(usual, best).encoding)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def text_chunks(chunks: Iterable[bytes], encoding: str, skip: int = 0) -> Iterator[str]:
    """Text of byte chunks; `skip` bytes (the byte-order mark) are left out at the start."""
    wide = encoding.replace("_", "-").startswith(("utf-16", "utf-32"))
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass" if wide else "surrogateescape")
    for chunk in chunks:
        part = chunk[skip:] if skip else chunk
        skip = max(0, skip - len(chunk))
        try:
            text = decoder.decode(part)
        except UnicodeDecodeError as error:
            raise BrokenSource("undecodable bytes", f"not {encoding}: {error.reason}") from None
        if text:
            yield text
    try:
        rest = decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise BrokenSource(
            "undecodable bytes", f"the file ends inside a {encoding} character: {error.reason}"
        ) from None
    if rest:
        yield rest


def is_single_byte(encoding: str) -> bool:
    """Whether every byte is a character by itself (Windows, ISO 8859, KOI8, Macintosh code pages)."""
    return len(bytes(range(128, 256)).decode(encoding, "replace")) == 128


def mend_surrogates(text: str, encoding: str | None = None) -> str | None:
    """`text` (a cell) without lone surrogates, or None where its bytes make no sense.

    A cell that is not UTF-8 is read in `encoding`, that of the rest of the file. Without one, pairs that were written
    as two escapes are joined, and stray bytes are read as Windows-1252 if that gives letters and punctuation of
    ordinary text.
    """
    if SURROGATES.search(text) is None:
        return text
    if encoding is not None:
        try:
            return text.encode("utf-8", "surrogateescape").decode(encoding)
        except UnicodeError:
            pass
    if _ESCAPED.search(text) is None:
        joined = text.encode("utf-16-le", "surrogatepass")
        try:
            return joined.decode("utf-16-le")
        except UnicodeDecodeError:
            return None

    sensible = True

    def as_windows(match: re.Match[str]) -> str:
        nonlocal sensible
        read = bytes(ord(character) - 0xDC00 for character in match.group()).decode("cp1252", "replace")
        sensible = sensible and _ORDINARY_1252.match(read) is not None
        return read

    mended = re.sub("[\udc80-\udcff]+", as_windows, text)
    if not sensible or SURROGATES.search(mended) is not None or _CAPITAL_INSIDE_WORD.search(mended) is not None:
        return None
    return mended
