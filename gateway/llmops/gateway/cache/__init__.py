"""Answers given again: of the same request, or of a question that means the same, to whoever may see them.

A cached answer costs nothing and is logged so. `RouteCache` is what the door uses; `replay` says a whole answer as a
stream.
"""

from llmops.gateway.cache.cache import CacheCounters, Lookup, RouteCache, open_cache
from llmops.gateway.cache.exact import Memory, Stored
from llmops.gateway.cache.keys import Wishes, read_wishes
from llmops.gateway.cache.replay import replayed

__all__ = [
    "CacheCounters", "Lookup", "Memory", "RouteCache", "Stored", "Wishes", "open_cache", "read_wishes", "replayed",
]  # fmt: skip
