"""Images and labels: datasets become an `ImageIndex`, a loader turns its rows into batches.

    what it is       index (flat arrays), cache (the same on disk), image (a file to pixels), loader (batches)
    what all share   dataset (settings, missing files), text_rows (lines and CSV files)
    published        coco voc openimages nuswide nuswide_zsl folder (imagenet) cifar cars digits
    one's own        table (over table_file), folder, coco (coco_json)
    training         augment (over randaugment)
    before it        download (over transfer, unpack; sources says from where), verify, statistics, stratify, shrink

Importing a module of this package registers its components; `mldec.engine.build` imports them all.
"""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks PyPI for a newer version when it is imported
