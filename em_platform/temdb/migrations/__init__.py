"""How the tables came to be; run by alembic."""
