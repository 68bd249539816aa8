"""Tahoe-LAFS over nothing but SSH hosts: the map of the house.

    cli         commands: parse, call, show
    gateway     the grid over HTTP and SFTP, for programs that know no caps
    client      from a configuration: connect the servers, hold the defaults
    recovery    grid files: what a person needs to use a cap; recovery kits: what brings a home back
    health      check, repair, renew; whole shares moved between servers
    tree        contents of any file, directories, paths, trees between here and the grid
    mutable     SDMF and MDMF files: survey, retrieve, publish
    immutable   LIT and CHK files: upload, download
    server      the storage server over SFTP: knows what a share is, and no client
    storage     the only room that reaches servers
    config      the TOML file, aliases, secrets
    placement   which server gets which share
    proof       is this share what the cap says?
    formats     one file format a module
    primitives  bytes in, bytes out
    errors      what can go wrong

A room sees only rooms further down this list (`tests/test_floors.py`).
"""

__version__ = "0.1.0"
