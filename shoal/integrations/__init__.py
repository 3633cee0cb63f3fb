"""Shoal within other libraries. Each is optional, and imported only when it is used."""
