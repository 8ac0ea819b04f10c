PURPOSE = "images"
"""Of the identity by which the two agents of a migration know each other (`checkpoint.memory.identity`)."""
