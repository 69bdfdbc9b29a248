"""Errors, paths, profiles, files: what everything else stands on."""
