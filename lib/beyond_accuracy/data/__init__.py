"""Datasets, their classes and readers, transforms, published numbers."""
