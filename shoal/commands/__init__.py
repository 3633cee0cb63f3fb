"""The commands of `shoal`, one file each: options in, one call, an exit code out."""
