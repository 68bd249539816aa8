"""One file format a module: dataclass, parse, serialise."""
