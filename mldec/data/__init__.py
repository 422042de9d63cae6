"""Pictures and labels: datasets become an `ImageIndex`, a loader turns its rows into batches.

Importing a module of this package registers its components; `mldec.engine.build` imports them all.
"""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks PyPI for a newer version when it is imported
