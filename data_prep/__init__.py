"""From videos to training shards; start with `README.md`."""
