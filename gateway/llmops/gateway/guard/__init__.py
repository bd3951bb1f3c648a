"""What may go in and come out: personal data, secrets, injections, topics, patterns, lengths, and where pictures point.

`open_guards` checks a route's configuration; `Guards` judges requests and whole replies, `StreamGuard` streams.
"""

from llmops.gateway.guard.guards import Guards, Verdict, open_guards
from llmops.gateway.guard.stream import StreamGuard

__all__ = ["Guards", "StreamGuard", "Verdict", "open_guards"]
