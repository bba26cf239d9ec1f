"""Decoding of clients' pictures, in processes that may do nothing else and are replaced when they end."""
