"""What a detector finds in a user's own series, in the formats that people and radiology software read."""
