"""The paper's statements as data, and the map that compares our results with them."""
