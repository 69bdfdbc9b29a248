"""From notebooks to the report."""
