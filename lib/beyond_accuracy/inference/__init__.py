"""Running models and keeping what they said."""
