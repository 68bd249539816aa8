"""Backups: local trees in immutable directories, and back, with all that a file system knows of them (spec 07).

`entries` says what is kept of an entry and `names` how it is called on the grid; `scan` reads a tree here, `database`
remembers what was stored from where, `create` makes snapshots.
"""
