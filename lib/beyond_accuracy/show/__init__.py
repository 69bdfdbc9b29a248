"""Looks, figures, tables, results on disk."""
