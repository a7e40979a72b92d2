"""Relatives of FE."""
