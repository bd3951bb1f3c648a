"""What every part shares: errors, configuration, names and ids, identity, tables, the spool, the LLM client, telemetry.

Core knows how things are stored and named. It knows no model library, and nothing of the parts above it.
"""
