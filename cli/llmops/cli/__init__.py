"""The `llmops` command: arguments in, data on stdout, progress on stderr. It decides nothing itself."""
