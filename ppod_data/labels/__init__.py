"""People's preferences: import from many formats, one label table, agreement, combination and export.

Each format is a file with a function `parse` that turns one record into answers. docs/labels.md is the users' page.
"""
