"""An Open Packaging container (ECMA-376 part 2): the parts of an office file, each bounded before it is unpacked.

Only parts that are asked for are unpacked, so a bomb among the pictures never goes off. No part may declare a document
type: the standard forbids it, and entities that expand or read files need one.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from io import BytesIO
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from lxml import etree  # type: ignore[import-untyped]

from llmops.rag.document import RefusedDocumentError

_MAX_PARTS = 20_000
_MAX_XML_BYTES = 256_000_000
_MAX_RATIO = 200
"""Office XML packs 5 to 30 times; deflate can do 1,032 times, and only bombs come near it."""
_RATIO_FROM_BYTES = 10_000_000
_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, OSError, RuntimeError)
_ENCRYPTED_FLAG = 1


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
            raise RefusedDocumentError("broken", "the archive holds no Word document")
        return main

    def related(self, part: str) -> dict[str, str]:
        """The parts that a part refers to, by their kind: `styles`, `footnotes`, ..."""
        folder, name = posixpath.split(part)
        targets = self._targets(folder, f"{folder}/_rels/{name}.rels")
        return {kind: target for kind, target in targets.items() if target.lower() in self._parts}

    def title(self) -> str | None:
        """The title among the file's properties."""
        properties = self._targets("", "_rels/.rels").get("core-properties", "")
        if properties.lower() not in self._parts:
            return None
        return next((child.text for child in self.xml(properties) if str(child.tag).endswith("}title")), None)

    def xml(self, part: str) -> Any:
        """The root element of a part.

        Raises:
            RefusedDocumentError: `broken`, `zip_bomb` or `xml_entities`.
        """
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
        try:
            root = etree.fromstring(self._unpack(part), parser)
        except etree.XMLSyntaxError as error:
            code = "xml_entities" if "ntity" in str(error) else "broken"
            raise RefusedDocumentError(code, f"{part}: {error}") from error
        if root.getroottree().docinfo.doctype:
            raise RefusedDocumentError("xml_entities")
        return root

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
        if relations.lower() not in self._parts:
            return {}
        found: dict[str, str] = {}
        for relation in self.xml(relations):
            if relation.get("TargetMode") != "External":
                target = unquote(relation.get("Target", ""))
                kind = relation.get("Type", "").rpartition("/")[2]
                found.setdefault(kind, posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/"))
        return found


def _damaged(error: Exception) -> RefusedDocumentError:
    return RefusedDocumentError("broken", f"the archive is damaged: {error}")
