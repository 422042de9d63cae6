"""A plugin: shards of 20 images, so that a small set has several."""

from mldec.data.token_store import TokenShape

TokenShape.images_per_shard = property(lambda _: 20)  # type: ignore[method-assign, assignment]
