"""One file = one published system; each reads top to bottom."""
