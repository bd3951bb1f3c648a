"""Where documents come from. A source lists documents; it never reads one."""

from llmops.rag.sources.files import scan, scan_all

__all__ = ["scan", "scan_all"]
