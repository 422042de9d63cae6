"""A plugin: shards of a few images, so that a small set has several."""

from mldec.data import token_store

token_store.SHARD_BYTES = 2**14
