"""What the paper says, as data, and the map that holds ours against it."""
