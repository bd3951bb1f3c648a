"""One door to every model provider: keys, limits, budgets, translation, and a row for every call."""

from llmops.gateway.compiled import lay_over

lay_over()  # before any module that is compiled is imported
