"""The paper's tables: what was published, the experiments that reproduce it, and what they gave here."""
