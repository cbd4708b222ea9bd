"""Bulk prediction: rows of tables, folders of shards, many processes and machines."""
