"""Text from pictures by Tesseract's library, called in the process that parses: its fences hold for the engine too.

The program `tesseract` could not be used: a parser process may start no other. Knows the engine's C interface (4 and 5,
with Leptonica, which decodes the pictures); neither PDF nor files. Nothing is loaded until a picture is met.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.extracted import printable

INSTALL = "apt-get install tesseract-ocr"
_ENGINES = ("libtesseract.so.5", "libtesseract.so.4", "libtesseract.5.dylib")
_DECODERS = ("liblept.so.5", "libleptonica.so.6", "libleptonica.6.dylib")
_MAX_PIXELS = 100_000_000
"""An A4 page at 600 dots per inch has 35 million."""
_MAX_PICTURES = 1000
_TIFF = (b"II*\0", b"MM\0*")
_SEVERITY_NONE = 6


def engine_version() -> str | None:
    """The version of the engine that is installed here, None where there is none."""
    engine = _engine()
    return engine.TessVersion().decode(errors="replace") if engine is not None else None


class Reader:
    """An engine that has loaded its languages, for one document."""

    def __init__(self, handle: Any) -> None:
        self._engine = _engine()
        self._handle = handle

    def read_pixels(self, pixels: Any, width: int, height: int, stride: int, dots_per_inch: int) -> str:
        """Text of a grey picture that lies in memory, a byte a pixel."""
        self._engine.TessBaseAPISetImage(self._handle, pixels, width, height, 1, stride)
        self._engine.TessBaseAPISetSourceResolution(self._handle, dots_per_inch)
        return self._text()

    def read_picture(self, pix: Any) -> str:
        """Text of a picture that Leptonica has decoded."""
        self._engine.TessBaseAPISetImage2(self._handle, pix)
        return self._text()

    def _text(self) -> str:
        found = self._engine.TessBaseAPIGetUTF8Text(self._handle)
        if not found:
            raise RefusedDocumentError("broken", "the picture cannot be read")
        try:
            return _tidy(ctypes.string_at(found).decode(errors="replace"))
        finally:
            self._engine.TessDeleteText(ctypes.c_void_p(found))
            self._engine.TessBaseAPIClear(self._handle)


@contextmanager
def open_reader(languages: str) -> Iterator[Reader]:
    """Load the engine.

    Args:
        languages: as the engine names them, the likeliest first: `eng+deu`.

    Raises:
        RefusedDocumentError: `ocr_missing`: the engine or a language is not installed.
    """
    engine = _engine()
    if engine is None:
        raise RefusedDocumentError("ocr_missing", f"the text is in pictures; to read them: {INSTALL}")
    handle = engine.TessBaseAPICreate()
    try:
        if engine.TessBaseAPIInit3(handle, None, languages.encode()) != 0:
            wanted = " ".join(f"tesseract-ocr-{name.replace('_', '-')}" for name in languages.split("+"))
            detail = f"tesseract has no data for `{languages}`: apt-get install {wanted}"
            raise RefusedDocumentError("ocr_missing", detail)
        yield Reader(handle)
    finally:
        engine.TessBaseAPIEnd(handle)
        engine.TessBaseAPIDelete(handle)


def decoded(data: bytes) -> Iterator[Any]:
    """The pictures of a file (a TIFF may have many), each freed when the next one is asked for.

    Raises:
        RefusedDocumentError: `broken`, or `too_large` before it is decoded.
    """
    decoder = _decoder()
    if decoder is None:
        raise RefusedDocumentError("ocr_missing", f"the text is in pictures; to read them: {INSTALL}")
    _require_size(decoder, data)
    if data[:4] not in _TIFF:
        yield from _freed(decoder, decoder.pixReadMem(data, len(data)))
        return
    offset = ctypes.c_size_t(0)
    for _ in range(_MAX_PICTURES):
        pix = decoder.pixReadMemFromMultipageTiff(data, len(data), ctypes.byref(offset))
        yield from _freed(decoder, pix)
        if offset.value == 0:
            return


def _require_size(decoder: Any, data: bytes) -> None:
    """Refuse what is no picture, and one that is larger than any scanner makes."""
    format_, width, height, bits, samples, mapped = (ctypes.c_int32() for _ in range(6))
    places = (ctypes.byref(value) for value in (format_, width, height, bits, samples, mapped))
    if decoder.pixReadHeaderMem(data, len(data), *places) != 0:
        raise RefusedDocumentError("broken", "the picture is damaged")
    if width.value * height.value > _MAX_PIXELS:
        raise RefusedDocumentError("too_large", f"the picture has {width.value:,} x {height.value:,} pixels")


def _freed(decoder: Any, pix: Any) -> Iterator[Any]:
    if not pix:
        raise RefusedDocumentError("broken", "the picture is damaged")
    try:
        yield ctypes.c_void_p(pix)
    finally:
        decoder.pixDestroy(ctypes.byref(ctypes.c_void_p(pix)))


@lru_cache(maxsize=1)
def _engine() -> Any:
    engine = _load(_ENGINES)
    if engine is None or _decoder() is None:
        return None
    engine.TessVersion.restype = ctypes.c_char_p
    engine.TessBaseAPICreate.restype = ctypes.c_void_p
    engine.TessBaseAPIInit3.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)
    engine.TessBaseAPISetImage.argtypes = (ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int,) * 4)
    engine.TessBaseAPISetImage.restype = None
    engine.TessBaseAPISetImage2.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    engine.TessBaseAPISetSourceResolution.argtypes = (ctypes.c_void_p, ctypes.c_int)
    engine.TessBaseAPIGetUTF8Text.argtypes = (ctypes.c_void_p,)
    engine.TessBaseAPIGetUTF8Text.restype = ctypes.c_void_p
    engine.TessDeleteText.argtypes = (ctypes.c_void_p,)
    for name in ("TessBaseAPIClear", "TessBaseAPIEnd", "TessBaseAPIDelete"):
        getattr(engine, name).argtypes = (ctypes.c_void_p,)
    return engine


@lru_cache(maxsize=1)
def _decoder() -> Any:
    decoder = _load(_DECODERS)
    if decoder is None:
        return None
    decoder.pixReadMem.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
    decoder.pixReadMem.restype = ctypes.c_void_p
    decoder.pixReadHeaderMem.argtypes = (ctypes.c_char_p, ctypes.c_size_t, *(ctypes.POINTER(ctypes.c_int32),) * 6)
    decoder.pixReadMemFromMultipageTiff.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t))
    decoder.pixReadMemFromMultipageTiff.restype = ctypes.c_void_p
    decoder.pixDestroy.argtypes = (ctypes.POINTER(ctypes.c_void_p),)
    decoder.setMsgSeverity(_SEVERITY_NONE)  # it prints about every damaged picture
    return decoder


def _load(names: tuple[str, ...]) -> Any:
    """The first library of these that is installed; `find_library` would start programs, which a parser may not."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _tidy(text: str) -> str:
    """Lines without blanks at their ends, no form feed, one empty line between blocks."""
    lines = [line.rstrip() for line in printable(text.replace("\f", "\n")).split("\n")]
    kept = [line for place, line in enumerate(lines) if line or (place and lines[place - 1])]
    return "\n".join(kept).strip()
