"""A migration at either agent: the steps of the side it leaves, and of the side it arrives at."""
