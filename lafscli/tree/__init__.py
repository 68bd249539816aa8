"""What caps point to: files and directories, paths, whole trees (spec 04)."""
