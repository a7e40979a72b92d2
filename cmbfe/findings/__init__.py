"""Detection of microbleeds in a user's own series, with results in formats for people and for radiology software."""
