"""What people prefer: read from the formats of others, kept in one table, understood, combined and given on.

One file a format, each with a function `parse` that turns one record into answers. docs/labels.md is the page for
users.
"""
