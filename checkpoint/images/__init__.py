"""CRIU's images: their folder, their edits, and the proofs that nothing in them changed."""
