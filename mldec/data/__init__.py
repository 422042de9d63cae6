"""Pictures and labels: datasets become an `ImageIndex`, a loader turns its rows into batches.

Importing a module of this package registers its components; `mldec.engine.build` imports them all.
"""
