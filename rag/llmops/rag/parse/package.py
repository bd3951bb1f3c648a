"""An Open Packaging container (ECMA-376 part 2): the parts of an office file, each bounded before it is unpacked.

Only parts that are asked for are unpacked, so a bomb among the pictures never goes off. No part may declare a document
type: the standard forbids it, and entities that expand or read files need one.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from lxml import etree  # type: ignore[import-untyped]

from llmops.rag.document import RefusedDocumentError
from llmops.rag.parse.stated import stated

_MAX_PARTS = 20_000
_MAX_XML_BYTES = 256_000_000
_MAX_RATIO = 200
"""Office XML packs 5 to 30 times; deflate can do 1,032 times, and only bombs come near it."""
_RATIO_FROM_BYTES = 10_000_000
_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, OSError, RuntimeError)
_ENCRYPTED_FLAG = 1
_SAFE = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}


class Package:
    """An opened container.

    Raises:
        RefusedDocumentError: `broken`, `encrypted`, `zip_bomb` (too many parts).
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._archive = zipfile.ZipFile(BytesIO(data))
        except _DAMAGE as error:
            raise _damaged(error) from error
        parts = self._archive.infolist()
        if any(part.flag_bits & _ENCRYPTED_FLAG for part in parts):
            raise RefusedDocumentError("encrypted")
        if len(parts) > _MAX_PARTS:
            raise RefusedDocumentError("zip_bomb", f"the archive has {len(parts):,} parts")
        self._parts = {part.filename.lower(): part for part in parts}

    def __enter__(self) -> Package:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def main_part(self) -> str:
        """The name of the part that holds the document."""
        main = self._targets("", "_rels/.rels").get("officeDocument")
        if main is None or main.lower() not in self._parts:
            raise RefusedDocumentError("broken", "the archive holds no office document")
        return main

    def related(self, part: str) -> dict[str, str]:
        """The parts that a part refers to, by their kind (`styles`, `footnotes`); the first where it has several."""
        found: dict[str, str] = {}
        for kind, target in self.relations(part).values():
            found.setdefault(kind, target)
        return found

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """The kind and the name of every part that a part refers to, by the id it refers with."""
        folder, name = posixpath.split(part)
        targets = self._relations(folder, f"{folder}/_rels/{name}.rels" if folder else f"_rels/{name}.rels")
        return {key: (kind, target) for key, kind, target in targets if target.lower() in self._parts}

    def title(self) -> str | None:
        """The title among the file's properties."""
        return self._properties().get("title")

    def stated(self) -> dict[str, Any]:
        """Author, day and language among the file's properties."""
        facts = self._properties()
        day = facts.get("created") or facts.get("modified")
        return stated(author=facts.get("creator"), day=day, language=facts.get("language"))

    def _properties(self) -> dict[str, str]:
        properties = self._targets("", "_rels/.rels").get("core-properties", "")
        if properties.lower() not in self._parts:
            return {}
        return {str(child.tag).rpartition("}")[2]: child.text for child in self.xml(properties) if child.text}

    def xml(self, part: str) -> Any:
        """The root element of a part.

        Raises:
            RefusedDocumentError: `broken`, `zip_bomb` or `xml_entities`.
        """
        parser = etree.XMLParser(**_SAFE)
        try:
            root = etree.fromstring(self._unpack(part), parser)
        except etree.XMLSyntaxError as error:
            raise _malformed(part, error) from error
        _forbid_doctype(root)
        return root

    def each(self, part: str, kind: str) -> Iterator[Any]:
        """The elements of a name, each gone when the next one is asked for: a sheet may have a million rows.

        Raises:
            RefusedDocumentError: `broken`, `zip_bomb` or `xml_entities`.
        """
        found = etree.iterparse(BytesIO(self._unpack(part)), events=("end",), tag=f"{{*}}{kind}", **_SAFE)
        try:
            for _, element in found:
                _forbid_doctype(element)
                yield element
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
        except etree.XMLSyntaxError as error:
            raise _malformed(part, error) from error

    def content(self, part: str) -> bytes:
        """A part as it is. Raises as `xml`."""
        return self._unpack(part)

    def _unpack(self, part: str) -> bytes:
        entry = self._parts[part.lower()]
        swollen = entry.file_size > max(_RATIO_FROM_BYTES, _MAX_RATIO * entry.compress_size)
        if entry.file_size > _MAX_XML_BYTES or swollen:
            raise RefusedDocumentError("zip_bomb", f"{entry.compress_size:,} bytes unpack to {entry.file_size:,}")
        try:
            return self._archive.read(entry)  # never more than the directory says; a lie shows in the checksum
        except _DAMAGE as error:
            raise _damaged(error) from error

    def _targets(self, folder: str, relations: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for _, kind, target in self._relations(folder, relations):
            found.setdefault(kind, target)
        return found

    def _relations(self, folder: str, relations: str) -> Iterator[tuple[str, str, str]]:
        for relation in self.xml(relations) if relations.lower() in self._parts else ():
            if relation.get("TargetMode") != "External":
                target = unquote(relation.get("Target", ""))
                kind = relation.get("Type", "").rpartition("/")[2]
                yield (
                    relation.get("Id", ""),
                    kind,
                    posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/"),
                )


def _forbid_doctype(element: Any) -> None:
    if element.getroottree().docinfo.doctype:
        raise RefusedDocumentError("xml_entities")


def _malformed(part: str, error: Exception) -> RefusedDocumentError:
    return RefusedDocumentError("xml_entities" if "ntity" in str(error) else "broken", f"{part}: {error}")


def _damaged(error: Exception) -> RefusedDocumentError:
    return RefusedDocumentError("broken", f"the archive is damaged: {error}")
