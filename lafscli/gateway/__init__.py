"""For programs that know no caps: the grid over HTTP(S) and SFTP (spec 08)."""
