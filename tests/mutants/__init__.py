"""Protecting lines taken out, one by one; each must turn a test red."""
