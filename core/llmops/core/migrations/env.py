"""Alembic's entry: runs the migrations on the connection, and in the transaction, that `llmops.core.sql` opened."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
