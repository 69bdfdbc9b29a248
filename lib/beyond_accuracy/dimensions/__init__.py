"""One module a page: mathematics and functions of runs."""
