"""Alembic runs this file to run the migrations; the connection is ``services.store.migrate``'s."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
