"""Data sets as other tools arrange them: recognised, read, and written anew as a plain folder."""
