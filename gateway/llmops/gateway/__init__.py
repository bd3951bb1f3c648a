"""One door to every model provider: keys, limits, budgets, translation, and a row for every call."""
