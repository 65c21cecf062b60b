"""Runs the migrations on the connection that `database.migrate` gives."""

from alembic import context

from em_platform.temdb.tables import Tile

# Dagster's own history has an `alembic_version`, maybe in the same database.
VERSION_TABLE = "temdb_version"

if context.is_offline_mode():
    context.configure(
        url=context.config.get_main_option("sqlalchemy.url"),
        target_metadata=Tile.metadata,
        # The statements are printed, so their values must stand in them.
        literal_binds=True,
        version_table=VERSION_TABLE,
    )
else:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=Tile.metadata,
        # SQLite cannot change a column: Alembic then copies the table.
        render_as_batch=True,
        version_table=VERSION_TABLE,
    )
with context.begin_transaction():
    context.run_migrations()
