"""From a name to a network that answers."""
