"""Several machines at once (optional, needs ray)."""
